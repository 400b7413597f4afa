"""Negatives: random ones of every token, safe ones from the tables of NNS, and a step's own."""

from __future__ import annotations

import math

import numpy as np
import torch

from pdrec_fast.data import Interactions
from pdrec_fast.operands import SharedNegatives
from pdrec_fast.preferences import Preferences
from pdrec_fast.preferences.preferences import unobserved_counts
from pdrec_fast.ragged import nth_absent
from pdrec_fast.random_keys import random_negatives, safe_negative_offsets, shared_negatives
from pdrec_fast.training.config import PDRecConfig
from pdrec_fast.training.tokens import TrainingTokens

# Draws among all items are repeated so many times, and altogether for so many times the number of
# negatives, before those left are drawn among what their users have not seen.
_ROUNDS, _REPEATS = 64, 2


class RandomNegatives:
    """Draws items that a user has not interacted with in training, uniformly.

    The draws depend on (seed, epoch) and the token's place in the data alone, not on batches. What
    a draw costs is bounded, however few items a user has left.
    """

    def __init__(self, train: Interactions) -> None:
        self.n_items = train.n_items
        self._rows = train.unique_items()
        self._observed = self._rows.row_indices * train.n_items + self._rows.values  # sorted

    def draw(self, users: np.ndarray, n: int, *, seed: int, epoch: int) -> np.ndarray:
        """``n`` negatives for every entry of ``users`` (int64 [T], none of whom has interacted with
        every item): int64 [T, n]."""
        generator = random_negatives(seed, epoch)
        drawn = generator.integers(self.n_items, size=(len(users), n))
        keys = users[:, None] * self.n_items
        clashes = np.nonzero(self._is_observed(keys + drawn))
        rounds = repeats = 0
        while len(clashes[0]) and rounds < _ROUNDS and repeats < _REPEATS * drawn.size:
            rounds, repeats = rounds + 1, repeats + len(clashes[0])
            fresh = generator.integers(self.n_items, size=len(clashes[0]))
            drawn[clashes] = fresh
            again = self._is_observed(keys[clashes[0], 0] + fresh)
            clashes = clashes[0][again], clashes[1][again]
        if len(clashes[0]):
            rows = users[clashes[0]]
            nth = generator.integers(self.n_items - self._rows.lengths[rows])
            drawn[clashes] = nth_absent(self._rows, rows, nth, self.n_items)
        return drawn

    def _is_observed(self, keys: np.ndarray) -> np.ndarray:
        at = np.searchsorted(self._observed, keys)
        return self._observed[np.minimum(at, len(self._observed) - 1)] == keys


def without_negatives(train: Interactions, config: PDRecConfig) -> np.ndarray:
    """bool [U], the users that the losses of ``config`` cannot be taken of: they have interacted
    with every item, and negatives are drawn for each user, at random or from the pool of NNS."""
    if not (config.own_negatives or "nns" in config.modules):
        return np.zeros(train.n_users, dtype=bool)
    found: np.ndarray = unobserved_counts(train) == 0
    return found


class SharedNegativeSampler:
    """Draws the shared negatives of a step, with replacement, by (seed, epoch, step) alone.

    Args:
        train: whose records count for ``sampling="popularity"``: an item is drawn in proportion to
            them, one without any never.
        n: K.
        sampling: or ``"uniform"``.
        cold_items: whether ``"uniform"`` draws items without any record too.
    """

    def __init__(
        self, train: Interactions, n: int, sampling: str, seed: int, *, cold_items: bool = True
    ) -> None:
        self.n, self.seed = n, seed
        counts = np.bincount(train.items, minlength=train.n_items)
        self._items = np.arange(train.n_items) if cold_items else np.flatnonzero(counts)
        self._up_to: np.ndarray | None = None  # records of the items up to and with each
        if sampling == "popularity":
            self._up_to = np.cumsum(counts)
            shares = np.maximum(counts, 1) / len(train.items)  # those without any are not drawn
            self._offsets = -np.log(n * shares).astype(np.float32)

    def draw(self, epoch: int, step: int) -> SharedNegatives:
        """The negatives of one step."""
        generator = shared_negatives(self.seed, epoch, step)
        if self._up_to is None:
            items = self._items[generator.integers(len(self._items), size=self.n)]
            offset = math.log(len(self._items) / self.n)
            offsets = torch.full((self.n,), offset, dtype=torch.float32)
            return SharedNegatives(torch.from_numpy(items), offsets)
        records = generator.integers(self._up_to[-1], size=self.n)
        items = np.searchsorted(self._up_to, records, side="right")
        return SharedNegatives(torch.from_numpy(items), torch.from_numpy(self._offsets[items]))


def safe_negatives(
    preferences: Preferences, tokens: TrainingTokens, n: int, *, seed: int, epoch: int
) -> np.ndarray:
    """The next ``n`` draws of every token from its user's table (NNS, eq. 3): int64 [n_tokens, n].

    A user's table is consumed in order from a place that depends on the seed, epoch after epoch,
    and begins again at its end.
    """
    table = preferences.negatives
    size = table.shape[1]
    offsets = safe_negative_offsets(seed).integers(size, size=len(table))
    # By user and not by sequence: the windows of a user go on where the one before ended.
    counts = np.bincount(tokens.token_users, minlength=len(table))
    starts = np.cumsum(counts) - counts
    place = np.arange(tokens.n_tokens) - starts[tokens.token_users]
    draw = (epoch * counts[tokens.token_users] + place)[:, None] * n + np.arange(n)
    users = tokens.token_users[:, None]
    return table[users, (offsets[users] + draw) % size].astype(np.int64)
