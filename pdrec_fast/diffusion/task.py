"""Training of the diffusion recommender (DiffRec's objective on PDRec's time-interval input)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from pdrec_fast.buffers import Buffers
from pdrec_fast.devices import multiplies_bfloat16
from pdrec_fast.diffusion.config import DiffusionConfig, Precision
from pdrec_fast.diffusion.denoiser import ITEM_WEIGHTS, Denoiser
from pdrec_fast.diffusion.inputs import projected
from pdrec_fast.diffusion.reverse import standard_noise
from pdrec_fast.diffusion.schedule import NoiseSchedule
from pdrec_fast.diffusion.shared_errors import shared_corpus_error, shared_cross_entropy
from pdrec_fast.diffusion.targets import TrainingBlock, TrainingRows
from pdrec_fast.diffusion.timesteps import TimestepSampler
from pdrec_fast.diffusion.working_copy import WorkingCopy
from pdrec_fast.evaluation import Evaluator, Scorer
from pdrec_fast.fitting.optimizer import load_optimizer_state, optimizer_state, with_state
from pdrec_fast.ops.denoising.noisy_input import noisy_input
from pdrec_fast.ops.denoising.noisy_projection import noisy_projection
from pdrec_fast.profiling import span, unit
from pdrec_fast.random_keys import epoch_seed
from pdrec_fast.ranks import ALONE, Mesh
from pdrec_fast.ranks.gradients import sum_backward, sum_forward, sum_gradients
from pdrec_fast.ranks.shards import RowShards


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """Of the products in training."""
    if precision == "auto":
        precision = "bf16" if multiplies_bfloat16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


class DenoiserScorer(Scorer, Protocol):
    """Scores by the denoiser under training."""

    def weights_changed(self) -> None:
        """Forget what was derived from the denoiser's weights."""
        ...


class DiffusionTask:
    """Training of a denoiser; see ``fitting.loop.TrainingTask``.

    An epoch's inputs are copied to the device at its start; its steps avoid host synchronisation.

    Over a mesh each step's users are shared along one axis. Along the other each process has some
    items' rows of the denoiser, x_t and the prediction: what is a sum over items, ``x_t item_in``,
    a row's error and the gradient of the hidden layer, is summed over the processes, B x H numbers.

    Args:
        denoiser: on ``device``; of this process's items alone, those of ``item_shards``.
        schedule: of the noise.
        config: all settings.
        rows: what is noised and what is predicted of the users trained on.
        device: where it is trained.
        scorer: the model that ``evaluator`` validates; told when the weights have changed.
        evaluator: None validates nothing.
        mesh: the processes that train together.
        n_items: N, of all processes.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        config: DiffusionConfig,
        rows: TrainingRows,
        *,
        device: torch.device,
        scorer: DenoiserScorer,
        evaluator: Evaluator | None = None,
        mesh: Mesh = ALONE,
        n_items: int | None = None,
    ) -> None:
        self.denoiser, self.config, self.device = denoiser, config, device
        self.scorer, self.evaluator, self.mesh = scorer, evaluator, mesh
        self.shards = RowShards(mesh.items, n_items or denoiser.n_items, ITEM_WEIGHTS)
        self.rows = rows
        self.working = WorkingCopy(denoiser, dtype_of(config.precision, device))
        self.buffers = Buffers()  # of the steps: inputs, errors and gradients over all items
        self.sampler = TimestepSampler(
            config.steps, importance=config.importance_sampling, device=self.device
        )
        self.signal = schedule.signal.float().to(self.device)
        self.sigma = schedule.sigma.float().to(self.device)
        if config.noise == "mask":
            weights = torch.arange(1, config.steps + 1, dtype=torch.float64).reciprocal()
        else:
            weights = schedule.loss_weights(config.prediction)
        if not config.snr_weighting:
            weights = torch.ones_like(weights)
        self.loss_weights = weights.to(self.device)
        self.optimizer = with_state(
            torch.optim.AdamW(
                self.denoiser.parameters(),
                lr=config.lr,
                weight_decay=config.weight_decay,
                fused=True,
            )
        )

    def train_epoch(self, epoch: int) -> torch.Tensor:
        n_users = len(self.rows)
        counts = {"tokens": self.rows.n_tokens, "items": n_users * self.shards.n_rows}
        with unit("diffusion", users=n_users, **counts), self.buffers.lent():
            losses = self._train_epoch(epoch)
        self.scorer.weights_changed()
        return losses

    def _train_epoch(self, epoch: int) -> torch.Tensor:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * config.lr_decay**epoch
        # On the host, so that every device sees the same numbers.
        generator = torch.Generator().manual_seed(epoch_seed(config.seed, epoch))
        order = torch.randperm(len(self.rows), generator=generator).numpy()
        fractions = torch.rand(len(order), dtype=torch.float64, generator=generator)
        items = self.shards.rows if self.mesh.items.size > 1 else None
        block = self.rows.epoch(order, generator, self.device, items)
        fractions = fractions.to(self.device)
        losses = []
        for start in range(0, len(order), config.batch_size):
            stop = min(start + config.batch_size, len(order))
            own = self.mesh.users.share(stop - start)
            self.working.load_weights()
            steps, correction = self.sampler.sample(fractions[start:stop])
            with span("forward"):
                users = slice(start + own.start, start + own.stop)
                per_user = self.step_losses(block[users], steps[own], epoch)
            # Whatever the mesh, the sampler learns from the whole batch.
            everybody = torch.cat(self.mesh.users.gathered(per_user.detach()))
            self.sampler.update(steps, everybody)
            loss = (per_user / correction[own]).sum() / (stop - start)
            with span("backward"):
                loss.backward()
            with span("optimizer"):
                self.working.hand_over_gradients()
                sum_gradients(self.denoiser.parameters(), self.mesh.users)
                self.optimizer.step()
                self.working.drop_gradients()
            losses.append(self.mesh.users.sum_(loss.detach().clone()))
        return torch.stack(losses)

    def step_losses(self, block: TrainingBlock, steps: torch.Tensor, epoch: int) -> torch.Tensor:
        """Each row's weighted error at its step, the mean squared one over the corpus or the
        multinomial negative log-likelihood: float64 [B]."""
        config, denoiser = self.config, self.working.denoiser
        keys: dict[str, Any] = {"seed": config.seed, "epoch": epoch, "users": block.users}
        items = self.mesh.items
        first_layer = sum_forward(self._first_layer(block, steps, keys), items)
        hidden = sum_backward(denoiser.hidden_from(first_layer, steps), items)
        if config.prediction == "x0":
            layer = hidden, denoiser.item_out, denoiser.item_bias
            target = block.predicted.coordinates()
            if config.likelihood == "gaussian":
                errors = shared_corpus_error(*layer, target, items, self.shards.n_rows)
            else:
                errors = shared_cross_entropy(*layer, target, items)
        else:
            noise = standard_noise(len(block), denoiser.n_items, **keys, device=self.device)
            errors = (denoiser.decode(hidden).float() - noise).square().mean(dim=1)
            if config.snr_weighting:
                # The bound scores step 0 by the likelihood of x_0: half its reconstruction's error.
                scale = 0.5 * (self.sigma[steps] / self.signal[steps]) ** 2
                errors = torch.where(steps == 0, scale * errors, errors)
        return self.loss_weights[steps] * errors.double()

    def _first_layer(
        self, block: TrainingBlock, steps: torch.Tensor, keys: dict[str, Any]
    ) -> torch.Tensor:
        """``x_t item_in`` of each row at its step after dropout, [B, H]."""
        config, weight = self.config, self.working.denoiser.item_in
        rows = block.noised
        if config.noise == "mask":
            share = config.dropout * (steps + 1).float() / config.steps
            return projected(rows, rows.values * (block.draws >= share[rows.rows]), weight)
        x0 = rows.indptr, rows.items, rows.values
        noised = self.signal[steps], self.sigma[steps]
        if not config.normalize_input:
            first = self.shards.rows.start
            return noisy_projection(*x0, weight, *noised, config.dropout, **keys, first_item=first)
        # The length is that of x_t before dropout, which keeps the same noise.
        corpus: dict[str, Any] = {**keys, "dtype": weight.dtype, "device": self.device}
        x, full = (
            noisy_input(*x0, len(weight), *noised, dropout, **corpus)
            for dropout in (config.dropout, 0.0)
        )
        norm = torch.linalg.vector_norm(full, dim=1).clamp_min(1e-12)
        return x.div_(norm[:, None]) @ weight

    @torch.no_grad()
    def validate(self) -> float | None:
        if self.evaluator is None:
            return None
        return self.evaluator.ndcg_at_10(self.scorer, self.config.select_by)

    def weights(self) -> dict[str, torch.Tensor]:
        return dict(self.denoiser.state_dict())

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.denoiser.load_state_dict(weights)
        self.scorer.weights_changed()

    def whole(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See ``fitting.loop.ShardedTask``."""
        return self.shards.whole(tensors)

    def own(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See ``fitting.loop.ShardedTask``."""
        return self.shards.own(tensors)

    def state(self) -> dict[str, torch.Tensor]:
        state = {f"timesteps.{key}": value for key, value in self.sampler.state_dict().items()}
        return state | optimizer_state(self.optimizer, self.denoiser)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self.sampler.load_state_dict({k: state[f"timesteps.{k}"] for k in ("losses", "counts")})
        load_optimizer_state(self.optimizer, self.denoiser, state)
