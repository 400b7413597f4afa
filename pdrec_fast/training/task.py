"""Training of a sequence encoder guided by PDRec's modules."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import nn

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
from pdrec_fast.ranks import ALONE, Mesh
from pdrec_fast.ranks.gradients import gathered_rows, sum_gradients, sum_rows_of
from pdrec_fast.training.batches import Batch, TrainingBatches
from pdrec_fast.training.captured import BatchShape, CapturedSteps, pad_batch
from pdrec_fast.training.guidance import Guidance
from pdrec_fast.training.objective import Objective
from pdrec_fast.training.shared_table import LOSSES, SharedTable

logger = logging.getLogger("pdrec_fast")
_Batch = TypeVar("_Batch", bound=Batch | None)


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
        mesh: the processes that train together: each takes its share of a step's users. The item
            table is shared by rows along ``mesh.items``, where the encoder is built in, its items
            have no features and the loss asks for a batch's rows alone; else everybody has all.
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
        mesh: Mesh = ALONE,
    ) -> None:
        self.mesh = mesh
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
        built_in = type(encoder) in ENCODERS.values()
        if mesh.all.size > 1:
            self._check_over_ranks()
        # On a GPU a dense gradient costs a fraction of the optimiser's own reading and writing; but
        # rows are less to send.
        self.sparse = (device.type == "cpu" or mesh.all.size > 1) and not featured
        self.rows_travel = built_in and not featured and self.config.loss != "corpus_softmax"
        self.shared_table: SharedTable | None = None
        if mesh.items.size > 1 and self.rows_travel and self.config.loss in LOSSES:
            self.shared_table = SharedTable(encoder.item_embedding, mesh)
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

    def _check_over_ranks(self) -> None:
        if self.cuda_graphs:
            raise ValueError(
                "cuda_graphs=True records the steps of one process: leave it out, or the mesh"
            )
        if self.batches.augment is not None and not hasattr(self.encoder, "view_states"):
            raise ValueError(
                f"{type(self.encoder).__name__} sets the users of a step against each other, who "
                "are shared over the mesh: give it view_states and contrast, see "
                "ContrastiveEncoder, or train in one process"
            )

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
            if self.mesh.all.rank:  # an encoder's own draws are for other users
                generator.manual_seed(epoch_seed(config.seed, epoch) + self.mesh.all.rank)
            batches = self.batches.epoch(order, epoch, self.mesh.all)
            if self.cuda_graphs:
                shape = BatchShape.for_epoch(self.batches, order, epoch)
                padded = self._delivered(pad_batch(batch, shape) for batch in batches if batch)
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

    def step(self, batch: Batch | None) -> torch.Tensor:
        """Update the encoder by one batch on its device, over a mesh by everybody's, of which this
        process may have none; returns the loss."""
        if self.mesh.all.size > 1:
            loss = self._loss_over_ranks(batch)
        else:
            assert batch is not None
            loss = self.batch_loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with span("backward"):
            if loss.requires_grad:
                loss.backward()
        with span("optimizer"):
            if self.mesh.all.size > 1:
                self._sum_gradients()
            if self.table_gradient is not None:
                self.table_gradient.collect()
            if self.config.clip_norm:
                self._clip()
            (self.row_adam or self.optimizer).step()
        return self.mesh.all.sum_(loss.detach().clone())

    def _loss_over_ranks(self, batch: Batch | None) -> torch.Tensor:
        """This process's part of the loss of everybody's batch; the parts sum to it."""
        axis = self.mesh.all
        if self.shared_table is not None:
            batch = self.shared_table.fetch(batch)
        losses = [] if batch is None else self._losses(batch)
        counts = torch.zeros(2, dtype=torch.int64)
        for place, (_, count) in enumerate(losses):
            counts[place] = count
        totals = axis.sum_(counts.clone()).clamp_min(1)
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        for (loss, _), share in zip(losses, (counts / totals).tolist(), strict=False):
            total = total + share * loss
        if self.batches.augment is not None:
            total = total + self._contrast_over_ranks(batch)
        return total

    def _contrast_over_ranks(self, batch: Batch | None) -> torch.Tensor:
        """The encoder's own loss of everybody's views, as one part in the number of processes."""
        table = self.encoder.item_embedding.weight
        pairs = table.new_zeros((0, 2, table.shape[1]))
        if batch is not None and batch.views is not None:
            with span("auxiliary loss"):
                pairs = torch.stack(self.encoder.view_states(batch.views).chunk(2), dim=1)
        pairs = gathered_rows(pairs, self.mesh.all)
        if not len(pairs):
            return table.new_zeros(())
        loss: torch.Tensor = self.encoder.contrast(pairs.transpose(0, 1).flatten(0, 1))
        return loss / self.mesh.all.size

    def _sum_gradients(self) -> None:
        """Everybody's gradients; those of the item table as rows."""
        axis, table = self.mesh.all, self.encoder.item_embedding.weight
        others = [p for p in self.encoder.parameters() if p is not table]
        sum_gradients(others, axis)
        if self.shared_table is not None:
            self.shared_table.hand_over()
        elif not self.rows_travel:
            grad = torch.zeros_like(table) if table.grad is None else table.grad.to_dense()
            table.grad = axis.sum_(grad.contiguous())
        else:
            rows, values = table.detach().new_zeros(0).long(), table.detach()[:0]
            if table.grad is not None:
                rows, values = table.grad._indices()[0], table.grad._values()
            rows, values = sum_rows_of(rows, values, axis)
            table.grad = torch.sparse_coo_tensor(
                rows[None], values, table.shape, check_invariants=False
            )

    def _clip(self) -> None:
        if self.shared_table is None:
            clip_gradients(self._gradients(self.encoder.parameters()), self.config.clip_norm)
            return
        rows = self.shared_table.rows
        others = [p for p in self.encoder.parameters() if p is not rows]
        given = self._gradients(others), self.config.clip_norm, self._gradients([rows])
        clip_gradients(*given, self.mesh.items)

    def _gradients(self, parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
        """Every gradient as a dense tensor; of a table that moves by rows, each row once."""
        gradients = []
        for parameter in parameters:
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
        (loss, _), *others = self._losses(batch)
        for other, _ in others:
            loss = loss + other
        if batch.views is not None:
            with span("auxiliary loss"):
                loss = loss + self.encoder.auxiliary_loss(batch.views)
        return loss

    def _losses(self, batch: Batch) -> list[tuple[torch.Tensor, int]]:
        """L_R and, with DPA, its weight times L_D: each the mean of so many."""
        config, table = self.config, item_table(self.encoder)
        with span("encode"):
            inputs, last = self._states(batch)
        with span("ranking loss"):
            if self.config.learn_temperature:
                objective = replace(self.objective, temperature=self.encoder.log_temperature.exp())
            else:
                objective = self.objective
            ranked = batch.candidates, batch.weights, batch.count, batch.shared
            losses = [(objective.ranking(inputs, table, *ranked), len(batch.candidates))]
        if last is not None and batch.soft_positives is not None:
            with span("distillation loss"):
                soft, top_n = batch.soft_positives, config.dpa_top_n
                distilled = config.dpa_weight * objective.distillation(last, table, soft, top_n)
            n_soft = 0
            if self.mesh.all.size > 1:  # the host waits for the device
                n_soft = int((soft >= 0).sum(dim=1).clamp(max=top_n).sum())
            losses.append((distilled, n_soft))
        return losses

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

    def _at_its_rate(self, batches: Iterator[_Batch], epoch: int) -> Iterator[_Batch]:
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

    def _delivered(self, batches: Iterator[_Batch]) -> Iterator[_Batch]:
        """The batches on the encoder's device; those for a GPU are made while it computes."""
        if self.device.type == "cpu":
            return batches
        if self.device.type != "cuda":
            return (_on(batch, self.device) for batch in batches)
        stream = torch.cuda.current_stream(self.device)

        def moved() -> Iterator[_Batch]:
            for batch in batches:
                # In the training's stream: it would not wait for this thread's own.
                with torch.cuda.stream(stream):
                    there = _on(batch, self.device)
                yield there

        return prefetched(moved())

    def validate(self) -> float | None:
        if self.evaluator is None:
            return None
        with nullcontext() if self.shared_table is None else self.shared_table.joined():
            return self.evaluator.ndcg_at_10(self.scorer, self.config.select_by)

    def join_table(self) -> None:
        """Give the encoder of every process all rows of the item table."""
        if self.shared_table is not None:
            self.shared_table.join()

    def whole(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See ``fitting.loop.ShardedTask``."""
        shards = None if self.shared_table is None else self.shared_table.shards
        return dict(tensors) if shards is None else shards.whole(tensors)

    def own(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See ``fitting.loop.ShardedTask``."""
        shards = None if self.shared_table is None else self.shared_table.shards
        return dict(tensors) if shards is None else shards.own(tensors)

    def weights(self) -> dict[str, torch.Tensor]:
        return dict(self.encoder.state_dict())

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.encoder.load_state_dict(weights)

    def state(self) -> dict[str, torch.Tensor]:
        return optimizer_state(self.optimizer, self.encoder)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        load_optimizer_state(self.optimizer, self.encoder, state)


def _on(batch: _Batch, device: torch.device) -> _Batch:
    return batch if batch is None else cast("_Batch", batch.to(device))
