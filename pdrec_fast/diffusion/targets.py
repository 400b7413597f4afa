"""What the denoiser is trained on in an epoch: vectors that are noised, and those it predicts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pdrec_fast.data import Histories
from pdrec_fast.diffusion.config import DiffusionConfig
from pdrec_fast.diffusion.inputs import SparseRows, interaction_rows, unique_rows
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import ranges

_NEGLIGIBLE = 1e-3  # weight of a step from the cut, relative to the next to it


class TrainingRows:
    """The training data's histories, as pairs of x_0 and its target.

    With ``target="all"`` both are the same in every epoch, one row a user. With ``"later"`` a
    history is cut at random places in every epoch, one in every ``cut_every`` interactions. Each
    cut makes a row: x_0 is what lies before, and the target's weights fall on both sides, those
    before it being ``earlier_weight`` times those after.

    Attributes:
        users: int64 [B], keys of the rows' noise: indices into the training data, numbers from the
            number of users on for further rows of a user.

    Raises:
        DataError: no user has a record, or with ``"later"`` two.
    """

    def __init__(self, histories: Histories, config: DiffusionConfig) -> None:
        self._config = config
        least = 2 if config.target == "later" else 1
        self._histories = histories[np.flatnonzero(histories.lengths >= least)]
        if not len(self._histories):
            what = "the training data has no records"
            if config.target == "later":
                what = "no user has two training records (target='later')"
            raise DataError(f"{what}: there is nothing to learn")
        self.users, self._counts = self._histories.users, np.ones(1, dtype=np.int64)
        self._place = np.zeros(1, dtype=np.int64)
        if config.target == "later":
            self._cut(len(histories))
        self.whole = self._inputs(self._histories)

    def _cut(self, n_users: int) -> None:
        """One row for every cut."""
        counts = -(-(self._histories.lengths - 1) // self._config.cut_every)
        self._histories = self._histories[np.repeat(np.arange(len(counts)), counts)]
        self._counts = np.repeat(counts, counts)
        self._place = ranges(np.zeros_like(counts), counts)
        self.users = self._histories.users.copy()
        further = np.flatnonzero(self._place)
        self.users[further] = n_users + np.arange(len(further))

    def __len__(self) -> int:
        return len(self.users)

    def of_epoch(self, fractions: np.ndarray) -> tuple[SparseRows, SparseRows]:
        """(x_0, target), rows in the order of ``users``.

        Args:
            fractions: float [B] in [0, 1), where in its part of the history each cut is.
        """
        if self._config.target == "all":
            return self.whole, self.whole
        histories = self._histories
        share = (self._place + fractions) / self._counts
        cuts = histories.starts + 1 + (share * (histories.lengths - 1)).astype(np.int64)
        if self._reach is not None:
            histories = replace(
                histories,
                starts=np.maximum(histories.starts, cuts - self._reach),
                stops=np.minimum(histories.stops, cuts + self._reach),
            )
        return self._inputs(replace(histories, stops=cuts)), self._around(histories, cuts)

    def _inputs(self, histories: Histories) -> SparseRows:
        config = self._config
        return interaction_rows(
            histories,
            weighting=config.weighting,
            w_min=config.w_min,
            w_max=config.w_max,
            decay=config.decay,
        )

    @property
    def _reach(self) -> int | None:
        """How many steps from a cut weights are worth their time; None: all of them."""
        config = self._config
        if config.weighting != "decay" or config.w_min or config.decay == 1:
            return None
        return math.ceil(math.log(_NEGLIGIBLE) / math.log(config.decay))

    def _around(self, histories: Histories, cuts: np.ndarray) -> SparseRows:
        """The histories by the distance from a cut, the position of the first record after it."""
        config = self._config
        if not config.earlier_weight:
            histories = replace(histories, starts=cuts)
        indptr, items, _ = histories.packed()
        position = ranges(histories.starts, histories.lengths)
        cut = np.repeat(cuts, histories.lengths)
        later = position >= cut
        distance = np.where(later, position - cut, cut - 1 - position)
        weights = np.where(later, 1.0, config.earlier_weight) * config.decay**distance
        return unique_rows(indptr, items, weights.astype(np.float32), histories.n_items)
