"""Item neighbourhoods: the items that the same users tend to have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pdrec_fast.checks import (
    check_counts,
    check_kinds,
    check_not_negative,
    check_positive,
    check_ratios,
)
from pdrec_fast.data import Interactions, Split
from pdrec_fast.diffusion.item_matrix import (
    ItemMatrix,
    among,
    strongest,
    transposed,
    user_rows,
)
from pdrec_fast.isolation import own_settings
from pdrec_fast.ops.denoising.sparse_product import sparse_product


@dataclass(frozen=True)
class ItemKNNConfig:
    """Settings of ``ItemKNN``.

    Attributes:
        neighbors: most similar items that are kept for every item that is scored.
        shrinkage: what is added to a cosine's denominator, in users: two items that few users have
            in common by chance count as less alike.
        decay: weight of an interaction in the histories that are scored, per step back from the
            latest: above 0, at most 1.
    """

    neighbors: int = 200
    shrinkage: float = 20.0
    decay: float = 0.7

    def __post_init__(self) -> None:
        check_kinds(self)
        check_counts(self, "neighbors")
        check_not_negative(self, "shrinkage")
        check_positive(self, "decay")
        check_ratios(self, "decay")


class ItemKNN(ItemMatrix):
    """Scores an item by how alike the items of a history are to it.

    With n_i the users who have item i and n_ij those who have both, items are alike by
    ``S_ij = n_ij / (sqrt(n_i n_j) + shrinkage)``, the cosine of their columns of the users x items
    matrix, shrunk (Sarwar et al. 2001; Bell & Koren 2007 for the shrinkage). Of every item the
    ``neighbors`` most similar are kept, ties to the lower item.

    A ``Scorer`` of decayed histories, see ``ItemMatrix``. Time and memory to fit: a users x items
    product of sparse matrices, and a dense block of some items by all at a time.

    Args:
        config: all settings; keyword arguments override single ones.
    """

    KIND = "item neighbourhoods"
    CONFIG = ItemKNNConfig
    config: ItemKNNConfig

    @own_settings()
    @torch.no_grad()
    def fit(self, data: Split | Interactions) -> ItemKNN:
        """Count and compare, on ``data.train`` of a split.

        Raises:
            DataError: there are no records.
        """
        train = data.train if isinstance(data, Split) else data
        rows = user_rows(train)
        counts = np.bincount(rows.items, minlength=train.n_items)
        kept = np.flatnonzero(counts)
        rows = among(rows, kept)
        by_item = transposed(rows)
        numbers = torch.from_numpy(counts[kept]).float()

        def alike(start: int, stop: int) -> torch.Tensor:
            some = by_item[np.arange(start, stop)]
            matrix = rows.indptr, rows.items, rows.values
            both = sparse_product(some.indptr, some.items, some.values, matrix, len(kept))
            roots = (numbers[start:stop, None] * numbers).sqrt_()  # of whole numbers: ties stay
            return both.div_(roots.add_(self.config.shrinkage))

        self._keep(strongest(alike, len(kept), self.config.neighbors), kept, train)
        return self
