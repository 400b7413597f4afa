"""A linear denoiser of interaction vectors, in closed form."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdrec_fast.checks import (
    check_counts,
    check_dropout,
    check_integers,
    check_positive,
    check_ratios,
)
from pdrec_fast.data import Histories, Interactions, Split
from pdrec_fast.data.catalogue import Catalogue
from pdrec_fast.data.histories import check_catalogue
from pdrec_fast.diffusion.inputs import (
    SparseRows,
    interaction_rows,
    steps_until,
)
from pdrec_fast.errors import DataError, NotFittedError
from pdrec_fast.fitting.bundle import Contents
from pdrec_fast.isolation import own_settings
from pdrec_fast.ops.denoising.sparse_product import sparse_product
from pdrec_fast.ops.selection.project import rows_per_block
from pdrec_fast.ops.selection.select_unobserved import top_items
from pdrec_fast.ragged import indptr_of, row_indices

_LEAST_LEFT = 0.01
_LARGEST_RIDGE = 1e30
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
        check_positive(self, "ridge", "decay")
        check_dropout(self)
        check_ratios(self, "decay")
        check_integers(self, "neighbors", "max_size")
        check_counts(self, "neighbors", "max_size")
        if self.ridge > _LARGEST_RIDGE:
            raise ValueError(f"ridge must be at most {_LARGEST_RIDGE:g}, got {self.ridge}")


class LinearDenoiser:
    """Reconstructs x_0 by one item matrix B from vectors that lack items and carry noise.

    B minimises the squared error ``|x_0 - x B|^2`` in expectation over the noise, with a diagonal
    of zeros, so that no item is its own evidence. With G the Gram matrix of the users' interaction
    vectors, p the dropout and ``C = (G + p / (1 - p) diag(G) + ridge I)^-1``, it is
    ``B_ij = -C_ij / C_jj`` off the diagonal (Steck 2020, "Autoencoders that don't overfit towards
    the identity", eq. 12; without dropout EASE, Steck 2019, arXiv:1905.03375, eq. 8). Where users
    are fewer than items, C comes from the users' products by Woodbury's identity, to the same B.

    A ``Scorer``: of a history whose latest item weighs 1 and every earlier one ``decay`` times the
    one after it; items that B knows nothing of, as those without a training record, do not count.

    Args:
        config: all settings; keyword arguments override single ones.
    """

    KIND = "linear denoiser"

    def __init__(self, config: LinearConfig | None = None, **settings: Any) -> None:
        self.config = replace(config or LinearConfig(), **settings)
        self.trained_on: str | None = None
        self.catalogue: Catalogue | None = None
        # Rows of B by source item: CSR.
        self._indptr = np.zeros(0, dtype=np.int64)
        self._targets = torch.zeros(0, dtype=torch.int32)
        self._values = torch.zeros(0, dtype=torch.float32)

    @own_settings()
    @torch.no_grad()
    def fit(self, data: Split | Interactions) -> LinearDenoiser:
        """Solve for B, on ``data.train`` of a split.

        Raises:
            DataError: there are no records.
            ValueError: the ridge is too small for these data.
        """
        train = data.train if isinstance(data, Split) else data
        histories = train.histories()
        histories = histories[np.flatnonzero(histories.lengths > 0)]
        if not len(histories):
            raise DataError("the training data has no records: there is nothing to learn")
        rows = interaction_rows(histories, weighting="none", w_min=1.0, w_max=1.0)
        counts = np.bincount(rows.items, minlength=train.n_items)
        kept = np.flatnonzero(counts)
        if min(len(rows), len(kept)) > self.config.max_size:
            most = np.argsort(-counts, kind="stable")[: self.config.max_size]
            kept = np.sort(most[counts[most] > 0])
        entries = self._neighbours(_among(rows, kept), torch.from_numpy(counts[kept]))
        self._keep(*entries, kept, train.n_items)
        self.trained_on, self.catalogue = train.fingerprint(), train.catalogue
        return self

    def _neighbours(
        self, rows: SparseRows, counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The kept entries of B: sources, targets (int64, among the kept items) and values."""
        dropout, n_items = self.config.dropout, rows.n_items
        penalty = self.config.ridge + dropout / (1 - dropout) * counts.float()
        rows_of = (_by_items if n_items <= len(rows) else _by_users)(rows, penalty)
        n_kept = min(self.config.neighbors, n_items)
        found = []
        step = rows_per_block(n_items)
        for start in range(0, n_items, step):
            targets = torch.arange(start, min(start + step, n_items))
            block = rows_of(start, start + len(targets))
            own = torch.arange(len(targets)), targets
            block /= -block[own][:, None]
            block[own] = 0
            sources = top_items(block.abs(), n_kept)
            values = block.gather(1, sources)
            there = values != 0
            found.append(
                (sources[there], targets[:, None].expand_as(sources)[there], values[there])
            )
        sources, targets, values = (torch.cat(parts) for parts in zip(*found, strict=True))
        return sources, targets, values

    def _keep(
        self,
        sources: torch.Tensor,
        targets: torch.Tensor,
        values: torch.Tensor,
        kept: np.ndarray,
        n_items: int,
    ) -> None:
        """Take on the entries of B, in the order of their sources."""
        order = torch.argsort(sources, stable=True)
        lengths = np.zeros(n_items, dtype=np.int64)
        lengths[kept] = torch.bincount(sources, minlength=len(kept)).numpy()
        self._indptr = indptr_of(lengths)
        self._targets = torch.from_numpy(kept.astype(np.int32))[targets[order]]
        self._values = values[order]

    @own_settings()
    @torch.no_grad()
    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        """``x B``.

        Args:
            histories: B of them.
            items: int64 [B, C] to score only these; None for the whole corpus.

        Returns:
            float32 [B, C] or [B, N], on the CPU; 0 of an item that shares no user with the history.

        Raises:
            DataError: the histories are over other items.
        """
        if self.trained_on is None:
            raise NotFittedError("this LinearDenoiser is not fitted: call fit(...)")
        n_items = len(self._indptr) - 1
        check_catalogue(histories, n_items, self.catalogue)
        histories = histories.only(np.diff(self._indptr) > 0)  # what says nothing takes no place
        steps = reading_steps(self.config)
        if steps is not None:
            starts = np.maximum(histories.starts, histories.stops - steps)
            histories = replace(histories, starts=starts)
        indptr, sources, _ = histories.packed()
        steps_back = np.repeat(indptr[1:], np.diff(indptr)) - 1 - np.arange(len(sources))
        weights = (self.config.decay**steps_back).astype(np.float32)
        scores = sparse_product(indptr, sources, weights, self.matrix, n_items)
        return scores if items is None else scores.gather(1, items)

    @property
    def matrix(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """B in CSR form, by source item: indptr int64 [N + 1], targets int32 and values float32
        [entries]."""
        return self._indptr, self._targets.numpy(), self._values.numpy()

    def contents(self) -> Contents:
        """What the bundle of a model that this guides keeps of it."""
        tensors = {
            "indptr": torch.from_numpy(self._indptr),
            "targets": self._targets,
            "values": self._values,
        }
        meta = {"config": asdict(self.config), "trained_on": self.trained_on}
        if self.catalogue is not None:
            meta["catalogue"] = self.catalogue.fingerprint
        return meta, {"items": tensors}

    @classmethod
    def from_contents(
        cls,
        contents: Contents,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
    ) -> LinearDenoiser:
        """The model of ``contents``, on the CPU whatever the device."""
        meta, files = contents
        model = cls(LinearConfig(**meta["config"]))
        model.trained_on = meta["trained_on"]
        if "catalogue" in meta:
            model.catalogue = Catalogue.known_by(meta["catalogue"])
        tensors = files["items"]
        model._indptr = tensors["indptr"].numpy()
        model._targets, model._values = tensors["targets"].int(), tensors["values"]
        return model


def reading_steps(config: LinearConfig) -> int | None:
    """How many records back a history is read: where the latest weighs 1, what lies before them
    adds nothing. None: all."""
    return steps_until(_NEGLIGIBLE, config.decay) if config.decay < 1 else None


def _among(rows: SparseRows, kept: np.ndarray) -> SparseRows:
    """The rows over the items ``kept`` alone, renumbered; those without any are left out."""
    number = np.full(rows.n_items, -1)
    number[kept] = np.arange(len(kept))
    items = number[rows.items]
    there = items >= 0
    lengths = np.bincount(row_indices(rows.indptr)[there], minlength=len(rows))
    return SparseRows(indptr_of(lengths[lengths > 0]), items[there], rows.values[there], len(kept))


RowsOf = Callable[[int, int], torch.Tensor]  # rows start .. stop of C, [stop - start, n_items]


def _by_items(rows: SparseRows, penalty: torch.Tensor) -> RowsOf:
    """C as the inverse of a matrix of items."""
    by_item = _transposed(rows)
    inverse = _inverse(_gram(by_item), penalty)
    return lambda start, stop: inverse[start:stop].clone()


def _by_users(rows: SparseRows, penalty: torch.Tensor) -> RowsOf:
    """C by Woodbury's identity, D being the penalty's diagonal matrix:
    ``D^-1 - D^-1 X' (I + X D^-1 X')^-1 X D^-1``."""
    scale = penalty.rsqrt().numpy()
    halves = replace(rows, values=rows.values * scale[rows.items])  # X D^-1/2
    inverse = _inverse(_gram(halves), torch.ones(len(rows), dtype=torch.float32))
    scaled = replace(rows, values=rows.values * scale[rows.items] ** 2)  # X D^-1
    by_item = _transposed(scaled)
    all_items = _sparse(by_item)

    def rows_of(start: int, stop: int) -> torch.Tensor:
        some = _sparse(by_item[np.arange(start, stop)])
        users = (some @ inverse).t().contiguous()
        block = (all_items @ users).t().contiguous().neg_()
        own = torch.arange(stop - start), torch.arange(start, stop)
        block[own] += penalty[start:stop].reciprocal()
        # What is left of D^-1 after a subtraction: its rounding is that of D^-1.
        if (block[own] * penalty[start:stop]).min() < _LEAST_LEFT:
            raise _too_small()
        return block

    return rows_of


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
    left = _sparse(rows)
    product = torch.empty(len(rows), len(rows), dtype=torch.float32)
    step = rows_per_block(max(rows.n_items, len(rows)))
    for start in range(0, len(rows), step):
        some = rows[np.arange(start, min(start + step, len(rows)))]
        product[:, start : start + len(some)] = left @ some.dense().t().contiguous()
    return product


def _transposed(rows: SparseRows) -> SparseRows:
    """Rows of items, over users."""
    order = np.argsort(rows.items, kind="stable")
    users = row_indices(rows.indptr)[order]
    counts = np.bincount(rows.items, minlength=rows.n_items)
    return SparseRows(indptr_of(counts), users, rows.values[order], len(rows))


def _sparse(rows: SparseRows) -> torch.Tensor:
    return torch.sparse_csr_tensor(
        torch.from_numpy(rows.indptr),
        torch.from_numpy(rows.items.astype(np.int64)),
        torch.from_numpy(rows.values),
        (len(rows), rows.n_items),
        check_invariants=False,
    )


def _hear_of_the_beta() -> None:
    """Torch tells once in a process that such tensors are in beta; here they are only multiplied
    with dense ones. The filters of warnings are not a thread's own, so that this is the time to
    change them: while the package is imported, not in a fit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        nothing = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
        _sparse(SparseRows(np.zeros(2, dtype=np.int64), *nothing, 1))


_hear_of_the_beta()
