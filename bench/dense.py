"""Baselines of the diffusion: its plain training path over dense rows, and its bare products."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F

import pdrec_fast as pf
from pdrec_fast.diffusion.denoiser import Denoiser, timestep_embedding
from pdrec_fast.fitting.optimizer import with_state

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def untrained(items: int, **settings: object) -> pf.DiffRec:
    """A ``DiffRec`` with fresh weights, ready to score: benchmarks need no training."""
    model = pf.DiffRec(**settings)
    config = model.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model.denoiser = Denoiser(items, config.hidden, config.time_embedding)
    return model


class DenseTraining:
    """TI-DiffRec's objective as plain PyTorch has it: B x N noise, target and error; autograd.

    Args:
        model: an untrained model with one hidden layer, whose weights are copied.
        x0: [B, N], the dense input rows.
    """

    def __init__(self, model: pf.DiffRec, x0: torch.Tensor) -> None:
        self.config, self.x0 = model.config, x0
        self.denoiser = copy.deepcopy(model.fitted_denoiser())
        self.signal, self.sigma = model.schedule.signal.float(), model.schedule.sigma.float()
        self.loss_weights = model.schedule.loss_weights("x0").float()
        self.optimizer = adamw(list(self.denoiser.parameters()), self.config)

    def noised_step(self) -> torch.Tensor:
        """One step at random diffusion steps, noise and dropout from torch's generator."""
        steps = torch.randint(self.config.steps, (len(self.x0),))
        x = self.signal[steps, None] * self.x0
        x = x + self.sigma[steps, None] * torch.randn_like(self.x0)
        return self.step(F.dropout(x, self.config.dropout), steps)

    def step(self, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Loss of the inputs x [B, N] at steps [B], after which the weights are updated."""
        half = self.config.precision == "bf16"
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            prediction = self._denoised(x, steps)
        errors = (prediction.float() - self.x0).square().mean(dim=1)
        loss = (self.loss_weights[steps] * errors).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _denoised(self, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        d = self.denoiser
        time = d.time_in(d.time(timestep_embedding(steps, d.time_embedding)))
        hidden = torch.tanh(x @ d.item_in + time)
        return hidden @ d.item_out.T + d.item_bias


def bare_step(batch: int, items: int, hidden: int, precision: str) -> Callable[[], None]:
    """The five matrix products of a training step and the update of both item matrices, alone."""
    dtype = DTYPES[precision]
    weights = [torch.randn(items, hidden, requires_grad=True) for _ in range(2)]
    optimizer = adamw(weights, pf.DiffusionConfig())
    x, error = (torch.randn(batch, items).to(dtype) for _ in range(2))
    h, gradient = (torch.randn(batch, hidden).to(dtype) for _ in range(2))

    def run() -> None:
        item_in, item_out = (weight.detach().to(dtype) for weight in weights)
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
