"""The diffusion's input x'_0: each user's interactions as a sparse row of time-interval weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pdrec_fast.data import Histories, Interactions
from pdrec_fast.data.catalogue import Catalogue
from pdrec_fast.data.histories import check_catalogue
from pdrec_fast.diffusion.config import DiffusionConfig
from pdrec_fast.errors import DataError
from pdrec_fast.ops.denoising.interval_weights import interval_weights
from pdrec_fast.ragged import indptr_of, ranges, row_indices


@dataclass(frozen=True)
class SparseRows:
    """Rows over the corpus in CSR form; items sorted and unique within a row.

    Attributes:
        indptr: int64 [B + 1]; items: int32 [nnz]; values: float32 [nnz]; n_items: N.
    """

    indptr: np.ndarray
    items: np.ndarray
    values: np.ndarray
    n_items: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, rows: np.ndarray) -> SparseRows:
        """The rows at integer indices ``rows`` [b], in that order."""
        lengths = np.diff(self.indptr)[rows]
        indptr = indptr_of(lengths)
        at = ranges(self.indptr[rows], lengths)
        return SparseRows(indptr, self.items[at], self.values[at], self.n_items)

    def of_items(self, items: slice) -> tuple[SparseRows, np.ndarray]:
        """(the rows over some items alone, renumbered from 0; bool [nnz], those left)."""
        kept = (self.items >= items.start) & (self.items < items.stop)
        counts = np.bincount(row_indices(self.indptr)[kept], minlength=len(self))
        found = self.items[kept] - np.int32(items.start), self.values[kept]
        return SparseRows(indptr_of(counts), *found, items.stop - items.start), kept

    def coordinates(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(row int64 [nnz], item int64 [nnz], value float32 [nnz])."""
        rows = row_indices(self.indptr)
        return (
            torch.from_numpy(rows),
            torch.from_numpy(self.items.astype(np.int64)),
            torch.from_numpy(self.values),
        )

    def dense(self) -> torch.Tensor:
        """float32 [B, N]."""
        rows, items, values = self.coordinates()
        out = torch.zeros(len(self), self.n_items, dtype=torch.float32)
        out[rows, items] = values
        return out

    def to(self, device: torch.device) -> RowTensors:
        """A copy on a device."""
        arrays = self.indptr, row_indices(self.indptr), self.items, self.values
        return RowTensors(self.indptr, *(torch.from_numpy(a).to(device) for a in arrays))


@dataclass(frozen=True)
class RowTensors:
    """Rows over the corpus on one device, cut into batches without host synchronisation.

    Attributes:
        bounds: int64 [B + 1] numpy: ``indptr`` for the host.
        indptr: int64 [B + 1]; rows: int64 [nnz], of each entry; items: int32 [nnz];
        values: float32 [nnz].
    """

    bounds: np.ndarray
    indptr: torch.Tensor
    rows: torch.Tensor
    items: torch.Tensor
    values: torch.Tensor

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, block: slice) -> RowTensors:
        """The rows of a contiguous block."""
        start, stop, _ = block.indices(len(self))
        first, last = int(self.bounds[start]), int(self.bounds[stop])
        return RowTensors(
            self.bounds[start : stop + 1] - first,
            self.indptr[start : stop + 1] - first,
            self.rows[first:last] - start,
            self.items[first:last],
            self.values[first:last],
        )

    def coordinates(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(row int64 [nnz], item int64 [nnz], value float32 [nnz])."""
        return self.rows, self.items.long(), self.values


def projected(rows: RowTensors, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """``x @ table`` [B, H] for the sparse x of ``rows`` with other values; differentiable in the
    table [N, H], in whose dtype it runs."""
    return F.embedding_bag(
        rows.items.long(),
        table,
        rows.indptr,
        mode="sum",
        per_sample_weights=values.to(table.dtype),
        include_last_offset=True,
    )


def interaction_rows(
    histories: Histories,
    *,
    weighting: str,
    w_min: float,
    w_max: float,
    decay: float = 1.0,
    half_life: float = math.inf,
) -> SparseRows:
    """x'_0 of every history (paper, "Time Interval Reweighting").

    A repeated item carries the weight of its last occurrence.

    Args:
        weighting: ``"none"`` (DiffRec), ``"rank"`` (T-DiffRec) or ``"interval"`` (TI-DiffRec; rank
            weights where there are no timestamps), ``"decay"`` or ``"half-life"``.
        w_min, w_max: bounds of the weights; decay: of ``"decay"``; half_life: of ``"half-life"``.
            See ``interval_weights``.
    """
    indptr, items, timestamps = histories.packed()
    given = indptr, timestamps, w_min, w_max, weighting
    weights = interval_weights(*given, decay=decay, half_life=half_life)
    return unique_rows(indptr, items, weights, histories.n_items)


def input_rows(histories: Histories, config: DiffusionConfig) -> SparseRows:
    """x'_0 of every history, weighted as the settings say; see ``interaction_rows``."""
    return interaction_rows(
        histories,
        weighting=config.weighting,
        w_min=config.w_min,
        w_max=config.w_max,
        decay=config.decay,
        half_life=config.half_life,
    )


def scored_rows(
    histories: Histories,
    n_items: int,
    catalogue: Catalogue | None,
    trained_items: np.ndarray | None,
    config: DiffusionConfig,
) -> SparseRows:
    """``input_rows`` of histories to score: of this catalogue, without items that say nothing.

    Raises:
        DataError: the histories are over other items.
    """
    check_catalogue(histories, n_items, catalogue)
    if config.skip_cold_items and trained_items is not None:
        histories = histories.only(trained_items)
    return input_rows(histories, config)


def steps_until(weight: float, decay: float) -> int:
    """How many steps back a weight that falls by ``decay``, below 1, a step has become so small."""
    return math.ceil(math.log(weight) / math.log(decay))


def recorded(train: Interactions) -> Histories:
    """The histories of the users who have one.

    Raises:
        DataError: nobody has a record.
    """
    histories = train.histories()
    histories = histories[np.flatnonzero(histories.lengths > 0)]
    if not len(histories):
        raise DataError("the training data has no records: there is nothing to learn")
    return histories


def unique_rows(
    indptr: np.ndarray,
    items: np.ndarray,
    weights: np.ndarray,
    n_items: int,
    *,
    largest: bool = False,
) -> SparseRows:
    """Rows with every item once, of its last occurrence's weight, or its largest."""
    rows = row_indices(indptr)
    keys = rows * n_items + items
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    kept = order[last]
    counts = np.bincount(rows[kept], minlength=len(indptr) - 1)
    values = weights[kept]
    if largest and len(kept) < len(order):
        first = np.flatnonzero(np.append(True, last[:-1]))
        values = np.maximum.reduceat(weights[order], first)
    return SparseRows(indptr_of(counts), items[kept], values, n_items)
