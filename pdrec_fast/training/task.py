"""Training of a sequence encoder guided by PDRec's modules."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from pdrec_fast.devices import prefetched
from pdrec_fast.encoders import ENCODERS, ContrastiveEncoder, PrefixEncoder
from pdrec_fast.encoders.featured import FeaturedEmbedding, item_table
from pdrec_fast.evaluation import Evaluator, Scorer
from pdrec_fast.fitting.clipping import clip_gradients
from pdrec_fast.fitting.optimizer import load_optimizer_state, optimizer_state, with_state
from pdrec_fast.fitting.row_adam import RowAdam
from pdrec_fast.fitting.table_gradient import TableGradient, sparse_gradient
from pdrec_fast.isolation import seeded_globally
from pdrec_fast.profiling import span, unit
from pdrec_fast.random_keys import epoch_seed
from pdrec_fast.training.batches import Batch, TrainingBatches
from pdrec_fast.training.captured import BatchShape, CapturedSteps, pad_batch
from pdrec_fast.training.guidance import Guidance
from pdrec_fast.training.objective import Objective

logger = logging.getLogger("pdrec_fast")


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
        self.by_prefix = isinstance(encoder, PrefixEncoder)
        self.batches = TrainingBatches(
            guidance,
            encoder.augment if contrastive else None,
            encoder.chosen if self.by_prefix else None,
            times=getattr(encoder, "reads_times", False),
        )
        featured = isinstance(encoder.item_embedding, FeaturedEmbedding)
        if featured and self.config.table_optimizer == "rows":
            raise ValueError(
                "table_optimizer='rows' moves the rows of a batch alone, and item features move "
                "all: set table_optimizer='dense'"
            )
        # On a GPU a dense gradient costs a fraction of the optimiser's own reading and writing.
        self.sparse = device.type == "cpu" and not featured
        self.objective = replace(objective, sparse_grad=self.sparse)
        if cuda_graphs and self.config.learn_temperature:
            raise ValueError(
                "cuda_graphs=True keeps the temperature of the recorded step: leave "
                "learn_temperature out"
            )
        n_steps = -(-self.batches.tokens.n_sequences // self.batches.users_per_step)
        self.learning_rate = self.config.learning_rate(n_steps)
        if self.config.warmup_steps >= self.config.epochs * n_steps:
            logger.warning(
                "warmup_steps=%d: %d epochs have %d steps in all, so that the learning rate never "
                "reaches lr=%g; fewer warm-up steps, or more epochs",
                self.config.warmup_steps,
                self.config.epochs,
                self.config.epochs * n_steps,
                self.config.lr,
            )
        self.optimizer = with_state(self._new_optimizer())
        table = encoder.item_embedding.weight
        self.row_adam: RowAdam | None = None
        self.table_gradient: TableGradient | None = None
        if self.config.table_optimizer == "rows":
            self.row_adam = RowAdam(self.optimizer, table)
        else:
            self.table_gradient = TableGradient(table)

    def _new_optimizer(self) -> torch.optim.Adam | torch.optim.AdamW:
        config = self.config
        lr: float | torch.Tensor = config.lr
        if self.cuda_graphs and self.learning_rate.varies_within_epochs:
            # Read by every replay, see _at_its_rate.
            lr = torch.tensor(lr, dtype=torch.float32, device=self.device)
        settings: dict[str, Any] = {
            "lr": lr,
            "betas": (0.9, 0.98),
            "fused": True,
            "capturable": self.cuda_graphs,
        }
        if not config.weight_decay:
            return torch.optim.Adam(self.encoder.parameters(), **settings)
        # A learned temperature would drift to 1 where no gradient holds it.
        own = [p for name, p in self.encoder.named_parameters() if name == "log_temperature"]
        others = [p for p in self.encoder.parameters() if all(p is not mine for mine in own)]
        groups: list[dict[str, Any]] = [{"params": others, "weight_decay": config.weight_decay}]
        if own:
            groups.append({"params": own, "weight_decay": 0.0})
        return torch.optim.AdamW(groups, **settings)

    def train_epoch(self, epoch: int) -> torch.Tensor:
        with unit("encoder", **self.batches.counts(epoch)):
            return self._train_epoch(epoch)

    def _train_epoch(self, epoch: int) -> torch.Tensor:
        config, table = self.config, self.encoder.item_embedding
        self.encoder.train()
        with (
            self._generator(epoch_seed(config.seed, epoch)) as generator,
            sparse_gradient(table) if self.sparse else nullcontext(),
        ):
            order = torch.randperm(self.batches.tokens.n_sequences, generator=generator).numpy()
            batches = self.batches.epoch(order, epoch)
            if self.cuda_graphs:
                shape = BatchShape.for_epoch(self.batches, order, epoch)
                padded = self._delivered(pad_batch(batch, shape) for batch in batches)
                steps = CapturedSteps(self.step, self.device)
                losses = [*steps.run(self._at_its_rate(padded, epoch))]
            else:
                delivered = self._at_its_rate(self._delivered(batches), epoch)
                losses = [self.step(batch) for batch in delivered]
        return torch.stack(losses)

    def _generator(self, seed: int) -> AbstractContextManager[torch.Generator]:
        """What the epoch draws from on the host. An encoder of the user's own may draw from torch's
        generators as well, a built-in one never does."""
        if type(self.encoder) in ENCODERS.values():
            return nullcontext(torch.Generator().manual_seed(seed))
        return seeded_globally(seed, self.device)

    def step(self, batch: Batch) -> torch.Tensor:
        """Update the encoder by one batch on its device; returns the loss."""
        loss = self.batch_loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with span("backward"):
            loss.backward()
        with span("optimizer"):
            if self.table_gradient is not None:
                self.table_gradient.collect()
            if self.config.clip_norm:
                clip_gradients(self._gradients(), self.config.clip_norm)
            (self.row_adam or self.optimizer).step()
        return loss.detach()

    def _gradients(self) -> list[torch.Tensor]:
        """Every gradient as a dense tensor; of a table that moves by rows, each row once."""
        gradients = []
        for parameter in self.encoder.parameters():
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
                gradients.append(parameter.grad._values())
            else:
                gradients.append(parameter.grad)
        return gradients

    def batch_loss(self, batch: Batch) -> torch.Tensor:
        """The objective (eq. 6) and the encoder's own loss of a batch on the encoder's device."""
        config, table = self.config, item_table(self.encoder)
        with span("encode"):
            inputs, last = self._states(batch)
        with span("ranking loss"):
            if self.config.learn_temperature:
                objective = replace(self.objective, temperature=self.encoder.log_temperature.exp())
            else:
                objective = self.objective
            ranked = batch.candidates, batch.weights, batch.count, batch.shared
            loss = objective.ranking(inputs, table, *ranked)
        if last is not None and batch.soft_positives is not None:
            with span("distillation loss"):
                soft, top_n = batch.soft_positives, config.dpa_top_n
                distilled = objective.distillation(last, table, soft, top_n)
                loss = loss + config.dpa_weight * distilled
        if batch.views is not None:
            with span("auxiliary loss"):
                loss = loss + self.encoder.auxiliary_loss(batch.views)
        return loss

    def _states(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Those of the inputs, and, for DPA, of the complete sequences."""
        if self.by_prefix:
            sequences, inputs = batch.sequences, batch.inputs
            states = self.encoder.training_states(sequences, inputs, batch.candidates[:, 0])
            if batch.last is None:
                return states, None
            return states, self.encoder.prefix_states(sequences, batch.last)
        states = self.encoder(batch.sequences)
        inputs = states if batch.inputs is None else states.index_select(0, batch.inputs)
        return inputs, None if batch.last is None else states.index_select(0, batch.last)

    def _at_its_rate(self, batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, each with the optimiser at its learning rate when it is taken.

        A recorded step reads a rate that varies from a tensor on the device; one that is a number
        is part of the recording, which every epoch makes anew.
        """
        for step, batch in enumerate(batches):
            rate = self.learning_rate.at(epoch, step)
            for group in self.optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
            yield batch

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
