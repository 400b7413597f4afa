"""Popularity: the recommender that every other should be better than."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.data import Histories, Interactions, Split
from pdrec_fast.data.catalogue import Catalogue
from pdrec_fast.data.histories import check_catalogue
from pdrec_fast.errors import NotFittedError
from pdrec_fast.fitting.bundle import Contents, OnCPU


class Popularity(OnCPU):
    """Scores an item by its number of records in the training interactions, whoever asks.

    A scorer as every other, for ``evaluate`` and ``Preferences.infer``. All histories get the same
    scores, so that ``full`` costs a sort of the items and no product with them.

    Args:
        train: the interactions that are counted; without them ``fit`` counts.
    """

    KIND = "popularity"

    def __init__(self, train: Interactions | None = None) -> None:
        self.item_scores: npt.NDArray[np.float64] | None = None
        self.trained_on: str | None = None
        self.catalogue: Catalogue | None = None
        if train is not None:
            self.fit(train)

    def fit(self, data: Split | Interactions) -> Popularity:
        """Count the records of ``data.train`` of a split."""
        train = data.train if isinstance(data, Split) else data
        self.item_scores = np.bincount(train.items, minlength=train.n_items).astype(np.float64)
        self.trained_on, self.catalogue = train.fingerprint(), train.catalogue
        return self

    def contents(self) -> Contents:
        """What ``save`` writes, and the bundle of a model that this guides."""
        counts = {"item_scores": torch.from_numpy(self._counts())}
        meta = {"trained_on": self.trained_on}
        if self.catalogue is not None:
            meta["catalogue"] = self.catalogue.fingerprint
        return meta, {"counts": counts}

    @classmethod
    def from_contents(
        cls,
        contents: Contents,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
    ) -> Popularity:
        """The scorer of ``contents``, on the CPU whatever the device."""
        meta, files = contents
        found = cls()
        found.item_scores = files["counts"]["item_scores"].numpy()
        found.trained_on = meta["trained_on"]
        if "catalogue" in meta:
            found.catalogue = Catalogue.known_by(meta["catalogue"])
        return found

    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        """Counts: float64 [B, N], or [B, C] of ``items``.

        Raises:
            NotFittedError: nothing was counted.
            DataError: the histories are over other items.
        """
        counts = torch.from_numpy(self._counts())
        check_catalogue(histories, len(counts), self.catalogue)
        return counts.expand(len(histories), -1) if items is None else counts[items]

    def _counts(self) -> npt.NDArray[np.float64]:
        if self.item_scores is None:
            raise NotFittedError("this Popularity is not fitted: call fit(...)")
        return self.item_scores
