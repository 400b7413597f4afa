"""Popularity: the recommender that every other should be better than."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pdrec_fast.data import Histories, Interactions
from pdrec_fast.data.catalogue import Catalogue
from pdrec_fast.data.histories import check_catalogue
from pdrec_fast.fitting.bundle import Contents


class Popularity:
    """Scores an item by its number of records in the training interactions, whoever asks.

    A scorer as every other, for ``evaluate`` and ``Preferences.infer``. All histories get the same
    scores, so that ``full`` costs a sort of the items and no product with them.

    Args:
        train: the interactions that are counted.
    """

    def __init__(self, train: Interactions) -> None:
        self.catalogue: Catalogue | None
        self.item_scores = np.bincount(train.items, minlength=train.n_items).astype(np.float64)
        self.trained_on, self.catalogue = train.fingerprint(), train.catalogue

    KIND = "popularity"

    def contents(self) -> Contents:
        """What the bundle of a model that this guides keeps of it."""
        meta = {"trained_on": self.trained_on}
        if self.catalogue is not None:
            meta["catalogue"] = self.catalogue.fingerprint
        return meta, {"counts": {"item_scores": torch.from_numpy(self.item_scores)}}

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
        found = cls.__new__(cls)
        found.item_scores = files["counts"]["item_scores"].numpy()
        found.trained_on, found.catalogue = meta["trained_on"], None
        if "catalogue" in meta:
            found.catalogue = Catalogue.known_by(meta["catalogue"])
        return found

    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        """Counts: float64 [B, N], or [B, C] of ``items``.

        Raises:
            DataError: the histories are over other items.
        """
        counts = torch.from_numpy(self.item_scores)
        check_catalogue(histories, len(counts), self.catalogue)
        return counts.expand(len(histories), -1) if items is None else counts[items]
