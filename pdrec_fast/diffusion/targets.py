"""What the denoiser is trained on in an epoch: vectors that are noised, and those it predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pdrec_fast.data import Histories
from pdrec_fast.diffusion.config import DiffusionConfig
from pdrec_fast.diffusion.inputs import SparseRows, interaction_rows, unique_rows
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import ranges


class TrainingRows:
    """The training data's histories, as pairs of x_0 and its target.

    With ``target="all"`` both are the same in every epoch. With ``"later"`` a history is cut at a
    random place in every epoch: x_0 is what lies before, and the target's weights fall on both
    sides of the cut, those before it being ``earlier_weight`` times those after.

    Attributes:
        users: int64 [B], indices into the training data, the keys of the rows' noise.

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
        self.users = self._histories.users
        self.whole = self._inputs(self._histories)

    def __len__(self) -> int:
        return len(self.users)

    def of_epoch(self, fractions: np.ndarray) -> tuple[SparseRows, SparseRows]:
        """(x_0, target), rows in the order of ``users``.

        Args:
            fractions: float [B] in [0, 1), where histories are cut.
        """
        if self._config.target == "all":
            return self.whole, self.whole
        histories = self._histories
        cuts = histories.starts + 1 + (fractions * (histories.lengths - 1)).astype(np.int64)
        return self._inputs(replace(histories, stops=cuts)), self._around(cuts)

    def _inputs(self, histories: Histories) -> SparseRows:
        config = self._config
        return interaction_rows(
            histories,
            weighting=config.weighting,
            w_min=config.w_min,
            w_max=config.w_max,
            decay=config.decay,
        )

    def _around(self, cuts: np.ndarray) -> SparseRows:
        """The histories by the distance from a cut, the position of the first record after it."""
        config, histories = self._config, self._histories
        if not config.earlier_weight:
            histories = replace(histories, starts=cuts)
        indptr, items, _ = histories.packed()
        position = ranges(histories.starts, histories.lengths)
        cut = np.repeat(cuts, histories.lengths)
        later = position >= cut
        distance = np.where(later, position - cut, cut - 1 - position)
        weights = np.where(later, 1.0, config.earlier_weight) * config.decay**distance
        return unique_rows(indptr, items, weights.astype(np.float32), histories.n_items)
