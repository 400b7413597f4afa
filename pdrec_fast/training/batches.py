"""What one training step needs, put together on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from pdrec_fast.data import Interactions
from pdrec_fast.data.histories import token_indices
from pdrec_fast.data.sequences import PackedSequences, pack
from pdrec_fast.devices import to_device
from pdrec_fast.errors import DataError
from pdrec_fast.preferences import Preferences, hbr_weights
from pdrec_fast.profiling import span
from pdrec_fast.random_keys import COMPLETE_USERS, check_users, safe_negative_offsets
from pdrec_fast.training.config import PDRecConfig
from pdrec_fast.training.negatives import RandomNegatives


class TrainingTokens:
    """Every (input, next item) pair of the training data, and what the modules attach to each.

    User i (of those with at least two training records) has the tokens
    ``starts[i] : starts[i] + lengths[i]``; all arrays below are [n_tokens] in that order.
    """

    def __init__(self, train: Interactions, max_length: int) -> None:
        histories = train.histories()
        histories = histories[np.flatnonzero(histories.lengths >= 2)]
        if not len(histories):
            raise DataError(
                "no user has two training records: there is no next item to learn; bring longer "
                "histories (leave-one-out keeps two records of a user for validation and test)"
            )
        self.users = histories.users
        self.lengths = np.minimum(histories.lengths - 1, max_length)
        self.starts = np.cumsum(self.lengths) - self.lengths
        stops = histories.stops - 1
        self.inputs = replace(histories, starts=stops - self.lengths, stops=stops)
        # Complete sequences, with the last positive: what DPA's last state has read. As users they
        # are others, so that their dropout is not that of the inputs again.
        self.inputs_and_complete = replace(
            histories,
            users=np.concatenate([self.users, COMPLETE_USERS + self.users]),
            starts=np.concatenate([self.inputs.starts, histories.starts]),
            stops=np.concatenate([self.inputs.stops, histories.stops]),
        )
        self.target_records = token_indices(self.inputs.starts + 1, self.lengths)
        self.targets = train.items[self.target_records].astype(np.int64)
        self.token_users = np.repeat(self.users, self.lengths)

    def __len__(self) -> int:
        """Number of users."""
        return len(self.users)

    @property
    def indptr(self) -> np.ndarray:
        return np.append(self.starts, len(self.targets))


@dataclass(frozen=True)
class Batch:
    """One step's input.

    Attributes:
        sequences: inputs of T tokens in all and, for DPA, complete sequences of B users.
        inputs: int64 [T], the inputs among the sequences' tokens; None where they are all.
        items: int64 [T, 1 + k], each input's next item, then its negatives.
        weights: float32 [T], HBR's; or None.
        last: int64 [B], the last token of every complete sequence; None without DPA.
        candidates: int64 [B, m], DPA's candidates, -1 where absent; None without DPA.
        count: int64 [], how many of the T inputs count where the rest are padding; or None.
        views: what the encoder's own loss is about; None where it has none.
    """

    sequences: PackedSequences
    inputs: torch.Tensor | None
    items: torch.Tensor
    weights: torch.Tensor | None
    last: torch.Tensor | None
    candidates: torch.Tensor | None
    count: torch.Tensor | None = None
    views: PackedSequences | None = None

    def to(self, device: torch.device) -> Batch:
        """This batch on a device."""
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in moved.items():
            if isinstance(value, PackedSequences):
                moved[name] = value.to(device)
            elif value is not None:
                moved[name] = to_device(value, device)
        return Batch(**moved)


class TrainingBatches:
    """Batches of users with their next items, negatives, weights and candidates.

    Args:
        train: the training interactions.
        preferences: what the modules take their guidance from; None for a plain encoder.
        max_length: longest sequence that the encoder reads.
        augment: makes views of a batch's inputs, see ``ContrastiveEncoder``; or None.
    """

    def __init__(
        self,
        train: Interactions,
        preferences: Preferences | None,
        config: PDRecConfig,
        max_length: int,
        augment: Callable[[PackedSequences], PackedSequences] | None = None,
    ) -> None:
        check_users(train.n_users, views=augment is not None)
        self.config, self.max_length, self.augment = config, max_length, augment
        self.tokens = TrainingTokens(train, max_length)
        self.random = RandomNegatives(train)
        modules = config.modules if preferences is not None else ()
        self.of_dpa = preferences if "dpa" in modules else None
        self.of_nns = preferences if "nns" in modules else None
        self.weights: np.ndarray | None = None
        if preferences is not None and "hbr" in modules:
            self.weights = hbr_weights(
                self.tokens.indptr,
                preferences.observed_scores[self.tokens.target_records],
                self.tokens.targets,
                rank_weight=config.hbr_rank_weight,
                clip=config.hbr_clip,
                rescale=config.hbr_rescale,
            )

    def __len__(self) -> int:
        """Number of users."""
        return len(self.tokens)

    def dpa_at(self, epoch: int) -> Preferences | None:
        """The preferences that DPA takes its candidates from; None without DPA and before it
        starts."""
        return self.of_dpa if epoch >= self.config.dpa_start else None

    def counts(self, epoch: int) -> dict[str, int]:
        """Users, tokens and scored items of an epoch."""
        n_tokens = len(self.tokens.targets)
        per_token = 1 + self.config.random_negatives
        per_token += self.config.safe_negatives if self.of_nns is not None else 0
        of_dpa = self.dpa_at(epoch)
        soft = 0 if of_dpa is None else of_dpa.top_items.shape[1]
        items = n_tokens * per_token + len(self) * soft
        return {"users": len(self), "tokens": n_tokens, "items": items}

    def epoch(self, order: np.ndarray, epoch: int) -> Iterator[Batch]:
        """Batches of the users in ``order``, rows of ``tokens``."""
        with span("negatives"):
            negatives = self.negatives(epoch)
        for start in range(0, len(order), self.config.batch_size):
            with span("batch"):
                batch = self.batch(order[start : start + self.config.batch_size], negatives, epoch)
            yield batch

    def negatives(self, epoch: int) -> np.ndarray:
        """Random, then (with NNS) safe negatives of every token: int64 [n_tokens, k]."""
        config, tokens = self.config, self.tokens
        keys = {"seed": config.seed, "epoch": epoch}
        drawn = self.random.draw(tokens.token_users, config.random_negatives, **keys)
        if self.of_nns is None:
            return drawn
        safe = safe_negatives(self.of_nns, tokens, config.safe_negatives, **keys)
        return np.concatenate([drawn, safe], axis=1)

    def batch(self, users: np.ndarray, negatives: np.ndarray, epoch: int) -> Batch:
        """The batch of some rows of ``tokens``.

        DPA's sequences are the inputs and one item more. They are encoded in the same call: at
        these sizes its fixed costs count.
        """
        tokens, of_dpa = self.tokens, self.dpa_at(epoch)
        histories = tokens.inputs[users]
        if of_dpa is not None:
            histories = tokens.inputs_and_complete[np.concatenate([users, len(tokens) + users])]
        packed = pack(histories, self.max_length, seed=self.config.seed, epoch=epoch)
        ranked = np.flatnonzero(packed.sources < len(users))
        rows = users[packed.sources[ranked]]
        lengths = tokens.lengths[rows]
        at = token_indices(tokens.starts[rows], lengths)
        inputs = last = candidates = None
        if of_dpa is not None:
            indptr = packed.indptr.numpy()
            inputs = torch.from_numpy(token_indices(indptr[ranked], lengths))
            complete = np.flatnonzero(packed.sources >= len(users))
            last = torch.from_numpy(indptr[complete + 1] - 1)
            of = tokens.users[users[packed.sources[complete] - len(users)]]
            candidates = torch.from_numpy(of_dpa.top_items[of].astype(np.int64))
        items = np.concatenate([tokens.targets[at, None], negatives[at]], axis=1)
        weights = None if self.weights is None else torch.from_numpy(self.weights[at])
        return Batch(
            packed,
            inputs,
            torch.from_numpy(items),
            weights,
            last,
            candidates,
            views=self._views(users, epoch),
        )

    def _views(self, users: np.ndarray, epoch: int) -> PackedSequences | None:
        """The encoder's views of the inputs of some rows of ``tokens``."""
        if self.augment is None:
            return None
        inputs = self.tokens.inputs[users]
        with span("views"):
            return self.augment(pack(inputs, self.max_length, seed=self.config.seed, epoch=epoch))


def check_trainable(train: Interactions, max_length: int) -> None:
    """Raise the DataError that training would raise, before anything else is done."""
    TrainingTokens(train, max_length)
    RandomNegatives(train)


def safe_negatives(
    preferences: Preferences, tokens: TrainingTokens, n: int, *, seed: int, epoch: int
) -> np.ndarray:
    """The next ``n`` draws of every token from its user's table (NNS): int64 [n_tokens, n].

    A user's table is consumed in order from a place that depends on the seed, epoch after epoch,
    and begins again at its end.
    """
    table = preferences.negatives
    size = table.shape[1]
    offsets = safe_negative_offsets(seed).integers(size, size=len(table))
    lengths = np.repeat(tokens.lengths, tokens.lengths)
    place = np.arange(len(tokens.targets)) - np.repeat(tokens.starts, tokens.lengths)
    draw = (epoch * lengths + place)[:, None] * n + np.arange(n)
    users = tokens.token_users[:, None]
    return table[users, (offsets[users] + draw) % size].astype(np.int64)
