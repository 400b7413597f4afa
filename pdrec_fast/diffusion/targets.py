"""What the denoiser is trained on in an epoch: vectors that are noised, and those it predicts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pdrec_fast.data import Histories
from pdrec_fast.diffusion.config import DiffusionConfig
from pdrec_fast.diffusion.inputs import RowTensors, SparseRows, input_rows, steps_until, unique_rows
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import ranges

_NEGLIGIBLE = 1e-3  # weight of a step from the cut, relative to the next to it


@dataclass(frozen=True)
class TrainingBlock:
    """Rows of one epoch, or some of them in a batch, on one device.

    Attributes:
        noised: x'_0, which is noised.
        predicted: what the denoiser predicts.
        users: int64 [B], keys of the rows' noise.
        draws: float32 [entries of ``noised``], uniform in [0, 1): those below the share that a
            step masks are masked.
    """

    noised: RowTensors
    predicted: RowTensors
    users: torch.Tensor
    draws: torch.Tensor

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, block: slice) -> TrainingBlock:
        start, stop, _ = block.indices(len(self))
        first, last = self.noised.bounds[start], self.noised.bounds[stop]
        return TrainingBlock(
            self.noised[block], self.predicted[block], self.users[block], self.draws[first:last]
        )


class TrainingRows:
    """The training data's histories, as pairs of x'_0 and what is predicted of it.

    With ``target="all"`` both are the same in every epoch, one row a user. With ``"later"`` a
    history is cut at random places in every epoch, one in every ``cut_every`` interactions. Each
    cut makes a row: x'_0 is what lies before, and the predicted weights fall on both sides, those
    before it being ``earlier_weight`` times those after.

    Attributes:
        users: int64 [B], keys of the rows' noise: indices into the training data, numbers from the
            number of users on for further rows of a user.
        n_tokens: interactions of the users trained on, without repetitions where those make one.

    Raises:
        DataError: no user has a record, or with ``"later"`` two.
    """

    def __init__(self, histories: Histories, config: DiffusionConfig) -> None:
        self._config = config
        n_users, least = len(histories), 2 if config.target == "later" else 1
        histories = histories[np.flatnonzero(histories.lengths >= least)]
        if not len(histories):
            what = "the training data has no records"
            if config.target == "later":
                what = "no user has two training records (target='later' needs them)"
            raise DataError(f"{what}: there is nothing to learn")
        self.n_tokens = int(histories.lengths.sum())
        self._whole: SparseRows | None = None
        if config.target == "later":
            counts = -(-(histories.lengths - 1) // config.cut_every)
            histories = histories[np.repeat(np.arange(len(counts)), counts)]
            self._counts = np.repeat(counts, counts)
            self._place = ranges(np.zeros_like(counts), counts)
            self.users = histories.users.copy()
            further = np.flatnonzero(self._place)
            self.users[further] = n_users + np.arange(len(further))
        else:
            self._whole, self.users = input_rows(histories, config), histories.users
            self.n_tokens = len(self._whole.items)
        self._histories = histories

    def __len__(self) -> int:
        return len(self.users)

    def epoch(
        self,
        order: np.ndarray,
        generator: torch.Generator,
        device: torch.device,
        items: slice | None = None,
    ) -> TrainingBlock:
        """The rows of an epoch in some order, on a device.

        Args:
            order: int64 [b], indices of rows.
            generator: of the cuts and of what is masked, on the CPU.
            items: which of them the rows are over, renumbered; None for all.
        """
        if self._whole is not None:
            noised = predicted = self._whole[order]
        else:
            fractions = torch.rand(len(self), dtype=torch.float64, generator=generator).numpy()
            noised, predicted = self._cut(order, fractions[order])
        masks = self._config.noise == "mask"
        n_draws = len(noised.items) if masks else 0
        draws = torch.rand(n_draws, dtype=torch.float32, generator=generator)
        if items is not None:
            alike = predicted is noised
            noised, kept = noised.of_items(items)
            predicted = noised if alike else predicted.of_items(items)[0]
            draws = draws[torch.from_numpy(kept)] if masks else draws
        on_device = noised.to(device)
        return TrainingBlock(
            on_device,
            on_device if predicted is noised else predicted.to(device),
            torch.from_numpy(self.users[order]).to(device),
            draws.to(device),
        )

    def _cut(self, order: np.ndarray, fractions: np.ndarray) -> tuple[SparseRows, SparseRows]:
        """Rows before and around the cuts, each at a fraction of its part of the history."""
        histories = self._histories[order]
        share = (self._place[order] + fractions) / self._counts[order]
        cuts = histories.starts + 1 + (share * (histories.lengths - 1)).astype(np.int64)
        if self._reach is not None:
            histories = replace(
                histories,
                starts=np.maximum(histories.starts, cuts - self._reach),
                stops=np.minimum(histories.stops, cuts + self._reach),
            )
        return input_rows(replace(histories, stops=cuts), self._config), self._around(
            histories, cuts
        )

    @property
    def _reach(self) -> int | None:
        """How many steps from a cut weights are worth their time; None: all of them."""
        config = self._config
        if config.weighting != "decay" or config.w_min or config.decay == 1:
            return None
        return steps_until(_NEGLIGIBLE, config.decay)

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
        found = weights.astype(np.float32)
        return unique_rows(indptr, items, found, histories.n_items, largest=True)
