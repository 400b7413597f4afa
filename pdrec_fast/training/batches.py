"""Batches of training steps, packed on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from pdrec_fast.data import Interactions
from pdrec_fast.data.sequences import PackedSequences, pack
from pdrec_fast.devices import to_device
from pdrec_fast.encoders import ContrastiveEncoder, SequenceEncoder
from pdrec_fast.operands import SharedNegatives
from pdrec_fast.preferences import Preferences
from pdrec_fast.profiling import span
from pdrec_fast.ragged import ranges
from pdrec_fast.random_keys import COMPLETE_USERS, check_users
from pdrec_fast.ranks import ALONE, Axis
from pdrec_fast.training.config import PDRecConfig
from pdrec_fast.training.guidance import Guidance
from pdrec_fast.training.negatives import without_negatives
from pdrec_fast.training.tokens import TrainingTokens

_LEAST_WITH_VIEWS = 32


@dataclass(frozen=True)
class Batch:
    """One step's input.

    Attributes:
        sequences: inputs of T tokens in all and, for DPA, complete sequences of B users, those
            whose latest records are among the inputs.
        inputs: int64 [T], the inputs among the sequences' tokens; None where they are all. Of a
            ``PrefixEncoder`` T counts those that it chose, here and below.
        candidates: int64 [T, 1 + k], each input's next item, then its negatives.
        weights: float32 [T], HBR's; or None.
        last: int64 [B], the last token of every complete sequence; None without DPA.
        soft_positives: int64 [B, m], DPA's, -1 where absent; None without DPA.
        count: int64 [], how many of the T inputs count where the rest are padding; or None.
        views: the sequences of the encoder's own loss; None where it has none.
        shared: negatives of all inputs; None where the loss has none.
    """

    sequences: PackedSequences
    inputs: torch.Tensor | None
    candidates: torch.Tensor
    weights: torch.Tensor | None
    last: torch.Tensor | None
    soft_positives: torch.Tensor | None
    count: torch.Tensor | None = None
    views: PackedSequences | None = None
    shared: SharedNegatives | None = None

    def to(self, device: torch.device) -> Batch:
        """This batch on a device."""
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in moved.items():
            if isinstance(value, PackedSequences):
                moved[name] = value.to(device)
            elif isinstance(value, SharedNegatives):
                moved[name] = SharedNegatives(*(to_device(tensor, device) for tensor in value))
            elif value is not None:
                moved[name] = to_device(value, device)
        return Batch(**moved)


class TrainingBatches:
    """Packs users of the training data, with what guides them, into batches.

    Args:
        guidance: weights, negatives and soft positives of every token.
        augment: makes views of a batch's inputs, see ``ContrastiveEncoder``; or None.
        choose: says which tokens are learned from, see ``PrefixEncoder.chosen``; None: all are.
        times: pack the inputs' times too.
    """

    def __init__(
        self,
        guidance: Guidance,
        augment: Callable[[PackedSequences], PackedSequences] | None = None,
        choose: Callable[[PackedSequences], np.ndarray] | None = None,
        times: bool = False,
    ) -> None:
        check_users(guidance.tokens.n_keys, views=augment is not None)
        self.guidance, self.config, self.augment = guidance, guidance.config, augment
        self.choose, self.times = choose, times
        self.tokens, self.max_length = guidance.tokens, guidance.max_length
        inputs, complete = self.tokens.inputs, self.tokens.histories
        # DPA's last state has read the complete sequence, with the last positive. Its user's key
        # is another, so that its dropout is not that of the inputs again.
        self._inputs_and_complete = replace(
            inputs,
            users=np.concatenate([inputs.users, COMPLETE_USERS + inputs.users]),
            starts=np.concatenate([inputs.starts, complete.starts]),
            stops=np.concatenate([inputs.stops, complete.stops]),
        )

    @property
    def users_per_step(self) -> int:
        """See ``PDRecConfig.users_per_step``; a loss on views sets every user against the others of
        the step, so that there it has ``_LEAST_WITH_VIEWS`` or its whole batch size."""
        size = self.config.users_per_step(self.tokens.n_sequences)
        if self.augment is None:
            return size
        return max(size, min(_LEAST_WITH_VIEWS, self.config.batch_size))

    def dpa_at(self, epoch: int) -> Preferences | None:
        """The preferences that DPA's soft positives are from; None without DPA, and before the
        epoch it starts at."""
        return self.guidance.dpa_preferences if epoch >= self.config.dpa_start else None

    def counts(self, epoch: int) -> dict[str, int]:
        """Users, tokens and scored items of an epoch."""
        n_users, n_tokens = int(self.tokens.latest.sum()), self.tokens.n_tokens
        dpa = self.dpa_at(epoch)
        n_soft = 0 if dpa is None else dpa.top_items.shape[1]
        items = n_tokens * (1 + self.guidance.n_negatives) + n_users * n_soft
        return {"users": n_users, "tokens": n_tokens, "items": items}

    def epoch(
        self, order: np.ndarray, epoch: int, axis: Axis = ALONE.all
    ) -> Iterator[Batch | None]:
        """Batches of the sequences in ``order``, rows of ``tokens``; of each step this process's
        share along ``axis``, which in a short last step may be none."""
        with span("negatives"):
            negatives = self.guidance.token_negatives(epoch)
        shared = self.guidance.shared_negatives
        size = self.users_per_step
        for step in range(-(-len(order) // size)):
            chosen = order[step * size : (step + 1) * size]
            chosen = chosen[axis.share(len(chosen))]
            if not len(chosen):
                yield None
                continue
            with span("batch"):
                batch = self.batch(chosen, negatives, epoch)
                if shared is not None:
                    batch = replace(batch, shared=shared.draw(epoch, step))
            yield batch

    def batch(self, chosen: np.ndarray, negatives: np.ndarray, epoch: int) -> Batch:
        """The batch of some sequences.

        With DPA it also has each user's complete sequence, the inputs and one item more. Both are
        encoded in one call, which costs less than two.

        Args:
            chosen: int64, rows of ``tokens``.
            negatives: int64 [n_tokens, k], of all tokens; see ``Guidance.token_negatives``.
        """
        tokens, dpa = self.tokens, self.dpa_at(epoch)
        histories = tokens.inputs[chosen]
        latest = chosen[tokens.latest[chosen]]
        if dpa is not None:
            both = np.concatenate([chosen, tokens.n_sequences + latest])
            histories = self._inputs_and_complete[both]
        packed = pack(
            histories, self.max_length, seed=self.config.seed, epoch=epoch, times=self.times
        )
        ranked = np.flatnonzero(packed.sources < len(chosen))
        rows = chosen[packed.sources[ranked]]
        lengths = tokens.lengths[rows]
        at = ranges(tokens.starts[rows], lengths)
        inputs = last = soft_positives = None
        if dpa is not None:
            indptr = packed.indptr.numpy()
            inputs = torch.from_numpy(ranges(indptr[ranked], lengths))
            complete = np.flatnonzero(packed.sources >= len(chosen))
            last = torch.from_numpy(indptr[complete + 1] - 1)
            owners = tokens.users[latest[packed.sources[complete] - len(chosen)]]
            soft_positives = torch.from_numpy(dpa.top_items[owners].astype(np.int64))
        if self.choose is not None:
            kept = torch.from_numpy(self.choose(packed))
            inputs = torch.arange(packed.n_tokens) if inputs is None else inputs
            at, inputs = at[kept[inputs].numpy()], inputs[kept[inputs]]
        candidates = np.concatenate([tokens.targets[at, None], negatives[at]], axis=1)
        weights = self.guidance.token_weights
        return Batch(
            packed,
            inputs,
            torch.from_numpy(candidates),
            None if weights is None else torch.from_numpy(weights[at]),
            last,
            soft_positives,
            views=self._views(latest, epoch),
        )

    def _views(self, latest: np.ndarray, epoch: int) -> PackedSequences | None:
        """The encoder's views of the latest inputs of some users, rows of ``tokens``: a loss that
        sets users against each other must not meet one twice."""
        if self.augment is None or not len(latest):
            return None
        inputs = self.tokens.inputs[latest]
        with span("views"):
            return self.augment(pack(inputs, self.max_length, seed=self.config.seed, epoch=epoch))


def check_trainable(train: Interactions, encoder: SequenceEncoder, config: PDRecConfig) -> None:
    """Raise the DataError that training would raise, before anything else is done."""
    left_out = without_negatives(train, config)
    tokens = TrainingTokens(train, encoder.max_length, windows=config.windows, left_out=left_out)
    check_users(tokens.n_keys, views=isinstance(encoder, ContrastiveEncoder))
