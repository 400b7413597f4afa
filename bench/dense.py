"""Baselines of the diffusion: its plain training path over dense rows, and its bare products."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F

import pdrec_fast as pf
from bench.target import compiled, target
from pdrec_fast.diffusion.denoiser import Denoiser, timestep_embedding
from pdrec_fast.fitting.optimizer import with_state

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def untrained(items: int, **settings: object) -> pf.DiffRec:
    """A ``DiffRec`` with fresh weights, ready to score: benchmarks need no training."""
    model = pf.DiffRec(**settings, **target().model_options)
    config = model.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        denoiser = Denoiser(items, config.hidden, config.time_embedding)
    model.denoiser = denoiser.to(target().device)
    return model


class DenseTraining:
    """TI-DiffRec's objective as plain PyTorch has it: B x N noise, target and error; autograd.

    Args:
        model: an untrained model with one hidden layer, whose weights are copied.
        x0: [U, N], the dense input rows of all users.
        compiling: whether forward and backward pass go through ``torch.compile``.
    """

    def __init__(self, model: pf.DiffRec, x0: torch.Tensor, compiling: bool = False) -> None:
        self.config, self.x0 = model.config, x0.to(target().device)
        self.denoiser = copy.deepcopy(model.fitted_denoiser())
        schedule = model.schedule
        tables = schedule.signal, schedule.sigma, schedule.loss_weights("x0")
        self.signal, self.sigma, self.loss_weights = (t.float().to(self.x0.device) for t in tables)
        self.noised = compiled(self._noised) if compiling else self._noised
        self.loss = compiled(self._loss) if compiling else self._loss
        self.optimizer = adamw(list(self.denoiser.parameters()), self.config)

    def noised_epoch(self) -> list[torch.Tensor]:
        """All users at random diffusion steps, noise and dropout from torch's generator."""
        order = torch.randperm(len(self.x0), device=self.x0.device)
        losses = []
        for batch in order.split(self.config.batch_size):
            x0 = self.x0[batch] if len(batch) < len(order) else self.x0
            steps = torch.randint(self.config.steps, (len(x0),), device=x0.device)
            losses.append(self.step(self.noised(x0, steps), x0, steps))
        return losses

    def step(self, x: torch.Tensor, x0: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Loss of the inputs x [B, N] at steps [B], after which the weights are updated."""
        loss = self.loss(x, x0, steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _noised(self, x0: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        x = self.signal[steps, None] * x0
        x = x + self.sigma[steps, None] * torch.randn_like(x0)
        return F.dropout(x, self.config.dropout)

    def _loss(self, x: torch.Tensor, x0: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        half = self.config.precision == "bf16"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            prediction = self._denoised(x, steps)
        errors = (prediction.float() - x0).square().mean(dim=1)
        return (self.loss_weights[steps] * errors).mean()

    def _denoised(self, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        d = self.denoiser
        time = d.time_in(d.time(timestep_embedding(steps, d.time_embedding)))
        hidden = torch.tanh(x @ d.item_in + time)
        return hidden @ d.item_out.T + d.item_bias


def bare_step(batch: int, items: int, hidden: int, precision: str) -> Callable[[], None]:
    """The five matrix products of a training step and the update of both item matrices, alone."""
    here = {"device": target().device}
    half = here | {"dtype": DTYPES[precision]}
    weights = [torch.randn(items, hidden, **here, requires_grad=True) for _ in range(2)]
    optimizer = adamw(weights, pf.DiffusionConfig())
    x, error = (torch.randn(batch, items, **half) for _ in range(2))
    h, gradient = (torch.randn(batch, hidden, **half) for _ in range(2))

    def run() -> None:
        item_in, item_out = (weight.detach().to(x.dtype) for weight in weights)
        torch.mm(x, item_in)
        torch.mm(h, item_out.T)
        torch.mm(error, item_out)
        weights[0].grad = torch.mm(x.T, gradient).float()
        weights[1].grad = torch.mm(error.T, h).float()
        optimizer.step()

    return run


def adamw(parameters: list[torch.Tensor], config: pf.DiffusionConfig) -> torch.optim.AdamW:
    """The optimizer that the diffusion is trained with, its state made beforehand."""
    return with_state(
        torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    )
