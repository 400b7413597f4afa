"""Uniform negatives for a whole epoch at once."""

from __future__ import annotations

import numpy as np

from pdrec_fast.data import Interactions
from pdrec_fast.data.histories import row_of
from pdrec_fast.preferences.preferences import unobserved_counts
from pdrec_fast.random_keys import random_negatives


class RandomNegatives:
    """Draws items that a user has not interacted with in training, uniformly.

    The draws depend on (seed, epoch) and the token's place in the data alone, not on batches.
    """

    def __init__(self, train: Interactions) -> None:
        indptr, items = train.unique_items()
        unobserved_counts(train, indptr)  # refuses a user without any
        self.n_items = train.n_items
        rows = row_of(indptr)
        self._observed = rows * train.n_items + items  # sorted

    def draw(self, users: np.ndarray, n: int, *, seed: int, epoch: int) -> np.ndarray:
        """``n`` negatives for every entry of ``users`` (int64 [T]): int64 [T, n]."""
        generator = random_negatives(seed, epoch)
        drawn = generator.integers(self.n_items, size=(len(users), n))
        keys = users[:, None] * self.n_items
        clashes = np.nonzero(self._is_observed(keys + drawn))
        while len(clashes[0]):
            fresh = generator.integers(self.n_items, size=len(clashes[0]))
            drawn[clashes] = fresh
            again = self._is_observed(keys[clashes[0], 0] + fresh)
            clashes = clashes[0][again], clashes[1][again]
        return drawn

    def _is_observed(self, keys: np.ndarray) -> np.ndarray:
        at = np.searchsorted(self._observed, keys)
        return self._observed[np.minimum(at, len(self._observed) - 1)] == keys
