"""Training of a sequence encoder guided by PDRec's modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pdrec_fast.data import Interactions
from pdrec_fast.devices import prefetched
from pdrec_fast.encoders import ContrastiveEncoder
from pdrec_fast.evaluation import Evaluator
from pdrec_fast.fitting.optimizer import load_optimizer_state, optimizer_state, with_state
from pdrec_fast.fitting.table_gradient import TableGradient, sparse_gradient
from pdrec_fast.preferences import Preferences
from pdrec_fast.profiling import span, unit
from pdrec_fast.random_keys import epoch_seed
from pdrec_fast.training.batches import Batch, TrainingBatches
from pdrec_fast.training.captured import BatchShape, CapturedSteps, pad_batch

if TYPE_CHECKING:
    from pdrec_fast.training.pdrec import PDRec


class PDRecFit:
    """Training of one ``PDRec``; see ``fitting.loop.Fit``."""

    def __init__(
        self,
        model: PDRec,
        train: Interactions,
        preferences: Preferences | None,
        evaluator: Evaluator | None,
    ) -> None:
        self.model, self.config, self.evaluator = model, model.config, evaluator
        self.device = model.device
        self.encoder = model.fitted_encoder()
        contrastive = isinstance(self.encoder, ContrastiveEncoder)
        self.batches = TrainingBatches(
            train,
            preferences,
            self.config,
            self.encoder.max_length,
            self.encoder.augment if contrastive else None,
        )
        # On a GPU a dense gradient costs a fraction of the optimiser's own reading and writing.
        self.sparse = self.device.type == "cpu"
        self.objective = replace(model.objective, sparse_grad=self.sparse)
        self.table_gradient = TableGradient(self.encoder.item_embedding.weight)
        self.optimizer = with_state(
            torch.optim.Adam(
                self.encoder.parameters(),
                lr=self.config.lr,
                betas=(0.9, 0.98),
                fused=True,
                capturable=model.cuda_graphs,
            )
        )

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
            order = torch.randperm(len(self.batches)).numpy()
            batches = self.batches.epoch(order, epoch)
            if self.model.cuda_graphs:
                shape = BatchShape.of_epoch(self.batches, order, epoch)
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
            self.table_gradient.collect()
            self.optimizer.step()
        return loss.detach()

    def batch_loss(self, batch: Batch) -> torch.Tensor:
        """The objective (eq. 6) and the encoder's own loss of a batch on the encoder's device."""
        config, table = self.config, self.encoder.item_embedding.weight
        with span("encode"):
            states = self.encoder(batch.sequences)
        with span("ranking loss"):
            inputs = states if batch.inputs is None else states.index_select(0, batch.inputs)
            loss = self.objective.ranking(inputs, table, batch.items, batch.weights, batch.count)
        if batch.last is not None and batch.candidates is not None:
            with span("distillation loss"):
                last = states.index_select(0, batch.last)
                top_n = config.dpa_top_n
                distilled = self.objective.distillation(last, table, batch.candidates, top_n)
                loss = loss + config.dpa_weight * distilled
        if batch.views is not None:
            with span("auxiliary loss"):
                loss = loss + self.encoder.auxiliary_loss(batch.views)
        return loss

    def _delivered(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches on the model's device; those for a GPU are made while it computes."""
        if self.device.type == "cpu":
            return batches
        if self.device.type != "cuda":
            return (batch.to(self.device) for batch in batches)
        stream = torch.cuda.current_stream(self.device)

        def moved() -> Iterator[Batch]:
            for batch in batches:
                # In the trainer's stream, not the thread's own, for which it would not wait.
                with torch.cuda.stream(stream):
                    there = batch.to(self.device)
                yield there

        return prefetched(moved())

    def validate(self) -> float | None:
        if self.evaluator is None:
            return None
        return self.evaluator.ndcg_at_10(self.model, self.config.select_by)

    def weights(self) -> dict[str, torch.Tensor]:
        return dict(self.encoder.state_dict())

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.encoder.load_state_dict(weights)

    def state(self) -> dict[str, torch.Tensor]:
        return optimizer_state(self.optimizer, self.encoder)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        load_optimizer_state(self.optimizer, self.encoder, state)
