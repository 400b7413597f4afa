"""A linear denoiser of interaction vectors, in closed form."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pdrec_fast.checks import (
    check_counts,
    check_dropout,
    check_kinds,
    check_positive,
    check_ratios,
)
from pdrec_fast.data import Interactions, Split
from pdrec_fast.diffusion.inputs import SparseRows
from pdrec_fast.diffusion.item_matrix import (
    ColumnsOf,
    Entries,
    ItemMatrix,
    among,
    as_torch,
    strongest,
    transposed,
    user_rows,
)
from pdrec_fast.isolation import own_settings
from pdrec_fast.ops.selection.project import rows_per_block

_LEAST_LEFT = 0.01
_NEGLIGIBLE = 1e-7  # weight of a step back, relative to the latest


@dataclass(frozen=True)
class LinearConfig:
    """Settings of ``LinearDenoiser``.

    Attributes:
        ridge: variance of the noise on an item, times the number of users: what is added to the
            Gram matrix's diagonal.
        dropout: share of a user's interactions that the noised vector lacks, below 1.
        decay: weight of an interaction in the histories that are scored, per step back from the
            latest: above 0, at most 1.
        neighbors: entries of the item matrix that are kept for every item that is scored, the
            largest by magnitude.
        max_size: largest matrix that is inverted; of more items and users than that, the items
            with the most records are taken and the others score 0.
    """

    ridge: float = 250.0
    dropout: float = 0.0
    decay: float = 0.7
    neighbors: int = 200
    max_size: int = 16_384

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive(self, "ridge", "decay")
        check_dropout(self)
        check_ratios(self, "decay")
        check_counts(self, "neighbors", "max_size")


class LinearDenoiser(ItemMatrix):
    """Reconstructs x_0 by one item matrix B from vectors that lack items and carry noise.

    B minimises the squared error ``|x_0 - x B|^2`` in expectation over the noise, with a diagonal
    of zeros, so that no item is its own evidence. With G the Gram matrix of the users' interaction
    vectors, p the dropout and ``C = (G + p / (1 - p) diag(G) + ridge I)^-1``, it is
    ``B_ij = -C_ij / C_jj`` off the diagonal (Steck 2020, "Autoencoders that don't overfit towards
    the identity", eq. 12; without dropout EASE, Steck 2019, arXiv:1905.03375, eq. 8). Where users
    are fewer than items, C comes from the users' products by Woodbury's identity, to the same B.

    A ``Scorer`` of decayed histories, see ``ItemMatrix``.

    Args:
        config: all settings; keyword arguments override single ones.
    """

    KIND = "linear denoiser"
    CONFIG = LinearConfig
    config: LinearConfig

    @own_settings()
    @torch.no_grad()
    def fit(self, data: Split | Interactions) -> LinearDenoiser:
        """Solve for B, on ``data.train`` of a split.

        Raises:
            DataError: there are no records.
            ValueError: the ridge is too small for these data.
        """
        train = data.train if isinstance(data, Split) else data
        rows = user_rows(train)
        counts = np.bincount(rows.items, minlength=train.n_items)
        kept = np.flatnonzero(counts)
        if min(len(rows), len(kept)) > self.config.max_size:
            most = np.argsort(-counts, kind="stable")[: self.config.max_size]
            kept = np.sort(most[counts[most] > 0])
        found = self._solved(among(rows, kept), torch.from_numpy(counts[kept]))
        self._keep(found, kept, train)
        return self

    def _solved(self, rows: SparseRows, counts: torch.Tensor) -> Entries:
        """The kept entries of B, over the items of ``rows``."""
        dropout, n_items = self.config.dropout, rows.n_items
        penalty = self.config.ridge + dropout / (1 - dropout) * counts.float()
        rows_of = (_by_items if n_items <= len(rows) else _by_users)(rows, penalty)

        def columns_of(start: int, stop: int) -> torch.Tensor:
            block = rows_of(start, stop)
            own = torch.arange(stop - start), torch.arange(start, stop)
            return block.div_(-block[own][:, None])

        return strongest(columns_of, n_items, self.config.neighbors)


def _by_items(rows: SparseRows, penalty: torch.Tensor) -> ColumnsOf:
    """C as the inverse of a matrix of items."""
    by_item = transposed(rows)
    inverse = _inverse(_gram(by_item), penalty)
    return lambda start, stop: inverse[start:stop].clone()


def _by_users(rows: SparseRows, penalty: torch.Tensor) -> ColumnsOf:
    """C by Woodbury's identity, D being the penalty's diagonal matrix:
    ``D^-1 - D^-1 X' (I + X D^-1 X')^-1 X D^-1``."""
    scale = penalty.rsqrt().numpy()
    halves = replace(rows, values=rows.values * scale[rows.items])  # X D^-1/2
    inverse = _inverse(_gram(halves), torch.ones(len(rows), dtype=torch.float32))
    scaled = replace(rows, values=rows.values * scale[rows.items] ** 2)  # X D^-1
    by_item = transposed(scaled)
    all_items = as_torch(by_item)

    def columns_of(start: int, stop: int) -> torch.Tensor:
        some = as_torch(by_item[np.arange(start, stop)])
        users = (some @ inverse).t().contiguous()
        block = (all_items @ users).t().contiguous().neg_()
        own = torch.arange(stop - start), torch.arange(start, stop)
        block[own] += penalty[start:stop].reciprocal()
        # What is left of D^-1 after a subtraction: its rounding is that of D^-1.
        if (block[own] * penalty[start:stop]).min() < _LEAST_LEFT:
            raise _too_small()
        return block

    return columns_of


def _inverse(matrix: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
    """``(matrix + diag)^-1`` of a positive definite sum; ``matrix`` is overwritten."""
    matrix.diagonal().add_(diagonal)
    try:
        factor = torch.linalg.cholesky(matrix)
    except torch.linalg.LinAlgError:
        raise _too_small() from None
    del matrix
    return torch.cholesky_inverse(factor).contiguous()  # its columns lay one after the other


def _too_small() -> ValueError:
    return ValueError(
        "the items' Gram matrix with this ridge is singular in float32: a larger one is needed "
        "(ridge=, on the command line --set linear.ridge=)"
    )


def _gram(rows: SparseRows) -> torch.Tensor:
    """``R R'`` of sparse rows, some columns of the product at a time: float32 [rows, rows]."""
    left = as_torch(rows)
    product = torch.empty(len(rows), len(rows), dtype=torch.float32)
    step = rows_per_block(max(rows.n_items, len(rows)))
    for start in range(0, len(rows), step):
        some = rows[np.arange(start, min(start + step, len(rows)))]
        product[:, start : start + len(some)] = left @ some.dense().t().contiguous()
    return product
