"""Training of a sequence encoder guided by PDRec's modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from pdrec_fast.devices import prefetched
from pdrec_fast.encoders import ContrastiveEncoder
from pdrec_fast.evaluation import Evaluator, Scorer
from pdrec_fast.fitting.optimizer import load_optimizer_state, optimizer_state, with_state
from pdrec_fast.fitting.row_adam import RowAdam
from pdrec_fast.fitting.table_gradient import TableGradient, sparse_gradient
from pdrec_fast.profiling import span, unit
from pdrec_fast.random_keys import epoch_seed
from pdrec_fast.training.batches import Batch, TrainingBatches
from pdrec_fast.training.captured import BatchShape, CapturedSteps, pad_batch
from pdrec_fast.training.guidance import Guidance
from pdrec_fast.training.objective import Objective


class PDRecTask:
    """Training of a sequence encoder; see ``fitting.loop.TrainingTask``.

    Args:
        encoder: a ``SequenceEncoder`` on ``device``.
        objective: the losses.
        guidance: what the encoder is trained on, up to its ``max_length``, and all settings.
        device: where it is trained.
        scorer: the model that ``evaluator`` validates: it scores by ``encoder``.
        evaluator: None validates nothing.
        cuda_graphs: record a step and replay it, see ``PDRec``.
    """

    def __init__(
        self,
        encoder: Any,
        objective: Objective,
        guidance: Guidance,
        *,
        device: torch.device,
        scorer: Scorer,
        evaluator: Evaluator | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        self.encoder, self.config, self.device = encoder, guidance.config, device
        self.scorer, self.evaluator, self.cuda_graphs = scorer, evaluator, cuda_graphs
        contrastive = isinstance(encoder, ContrastiveEncoder)
        self.batches = TrainingBatches(guidance, encoder.augment if contrastive else None)
        # On a GPU a dense gradient costs a fraction of the optimiser's own reading and writing.
        self.sparse = device.type == "cpu"
        self.objective = replace(objective, sparse_grad=self.sparse)
        if cuda_graphs and self.config.learn_temperature:
            raise ValueError(
                "cuda_graphs=True keeps the temperature of the recorded step: leave "
                "learn_temperature out"
            )
        self.table_gradient = TableGradient(self.encoder.item_embedding.weight)
        self.optimizer = with_state(
            torch.optim.Adam(
                self.encoder.parameters(),
                lr=self.config.lr,
                betas=(0.9, 0.98),
                fused=True,
                capturable=cuda_graphs,
            )
        )
        rows = self.config.table_optimizer == "rows"
        self.row_adam = RowAdam(self.optimizer, encoder.item_embedding.weight) if rows else None

    def train_epoch(self, epoch: int) -> torch.Tensor:
        with unit("encoder", **self.batches.counts(epoch)):
            return self._train_epoch(epoch)

    def _train_epoch(self, epoch: int) -> torch.Tensor:
        config, table = self.config, self.encoder.item_embedding
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * config.lr_decay**epoch
        self.encoder.train()
        # An encoder of the user's own may draw from the GPU's generator as well.
        forked = [self.device] if self.device.type == "cuda" else []
        with (
            torch.random.fork_rng(forked),
            sparse_gradient(table) if self.sparse else nullcontext(),
        ):
            torch.manual_seed(epoch_seed(config.seed, epoch))
            order = torch.randperm(self.batches.tokens.n_users).numpy()
            batches = self.batches.epoch(order, epoch)
            if self.cuda_graphs:
                shape = BatchShape.for_epoch(self.batches, order, epoch)
                padded = self._delivered(pad_batch(batch, shape) for batch in batches)
                losses = [*CapturedSteps(self.step, self.device).run(padded)]
            else:
                losses = [self.step(batch) for batch in self._delivered(batches)]
        return torch.stack(losses)

    def step(self, batch: Batch) -> torch.Tensor:
        """Update the encoder by one batch on its device; returns the loss."""
        loss = self.batch_loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with span("backward"):
            loss.backward()
        with span("optimizer"):
            if self.row_adam is not None:
                self.row_adam.step()
            else:
                self.table_gradient.collect()
                self.optimizer.step()
        return loss.detach()

    def batch_loss(self, batch: Batch) -> torch.Tensor:
        """The objective (eq. 6) and the encoder's own loss of a batch on the encoder's device."""
        config, table = self.config, self.encoder.item_embedding.weight
        with span("encode"):
            states = self.encoder(batch.sequences)
        with span("ranking loss"):
            if self.config.learn_temperature:
                objective = replace(self.objective, temperature=self.encoder.log_temperature.exp())
            else:
                objective = self.objective
            inputs = states if batch.inputs is None else states.index_select(0, batch.inputs)
            ranked = batch.candidates, batch.weights, batch.count, batch.shared
            loss = objective.ranking(inputs, table, *ranked)
        if batch.last is not None and batch.soft_positives is not None:
            with span("distillation loss"):
                last = states.index_select(0, batch.last)
                soft, top_n = batch.soft_positives, config.dpa_top_n
                distilled = objective.distillation(last, table, soft, top_n)
                loss = loss + config.dpa_weight * distilled
        if batch.views is not None:
            with span("auxiliary loss"):
                loss = loss + self.encoder.auxiliary_loss(batch.views)
        return loss

    def _delivered(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches on the encoder's device; those for a GPU are made while it computes."""
        if self.device.type == "cpu":
            return batches
        if self.device.type != "cuda":
            return (batch.to(self.device) for batch in batches)
        stream = torch.cuda.current_stream(self.device)

        def moved() -> Iterator[Batch]:
            for batch in batches:
                # In the training's stream: it would not wait for this thread's own.
                with torch.cuda.stream(stream):
                    there = batch.to(self.device)
                yield there

        return prefetched(moved())

    def validate(self) -> float | None:
        if self.evaluator is None:
            return None
        return self.evaluator.ndcg_at_10(self.scorer, self.config.select_by)

    def weights(self) -> dict[str, torch.Tensor]:
        return dict(self.encoder.state_dict())

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.encoder.load_state_dict(weights)

    def state(self) -> dict[str, torch.Tensor]:
        return optimizer_state(self.optimizer, self.encoder)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        load_optimizer_state(self.optimizer, self.encoder, state)
