"""Rows of unequal lengths in one flat array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_ENTRIES_PER_BLOCK = 1 << 20  # whose temporaries stay small beside rows that fill the memory


@dataclass(frozen=True, eq=False)
class Ragged:
    """Row r is ``values[indptr[r]:indptr[r + 1]]`` (compressed sparse rows without columns).

    Attributes:
        values: [n_entries], of any dtype.
        indptr: int64 [n_rows + 1], from 0, never decreasing, up to n_entries.
    """

    values: npt.NDArray[Any]
    indptr: npt.NDArray[np.int64]

    @classmethod
    def from_lengths(cls, values: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> Ragged:
        """Rows of ``lengths`` [n_rows], one after another in ``values``."""
        return cls(values, indptr_of(lengths))

    @property
    def n_rows(self) -> int:
        return len(self.indptr) - 1

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """int64 [n_rows], where each row begins in ``values``."""
        return self.indptr[:-1]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 [n_rows], entries of each row."""
        return np.diff(self.indptr)

    @property
    def row_indices(self) -> npt.NDArray[np.int64]:
        """int64 [n_entries], the row of each entry."""
        return row_indices(self.indptr)

    def rows(self, chosen: slice) -> Ragged:
        """A contiguous block of rows; ``values`` is a view."""
        start, stop, step = chosen.indices(self.n_rows)
        if step != 1:
            raise ValueError(f"rows must be a contiguous block, got {chosen}")
        bounds = self.indptr[start : max(stop, start) + 1]
        return Ragged(self.values[bounds[0] : bounds[-1]], bounds - bounds[0])


def unique_in_rows(rows: Ragged, n_values: int) -> Ragged:
    """Each row's distinct numbers, ascending, some rows at a time.

    Args:
        rows: numbers from 0 on, below ``n_values``.

    Returns:
        Of the dtype of ``rows.values``.
    """
    counts = np.zeros(rows.n_rows, dtype=np.int64)
    found = [rows.values[:0]]
    start = 0
    while start < rows.n_rows:
        most = np.searchsorted(rows.indptr, rows.indptr[start] + _ENTRIES_PER_BLOCK, "right") - 1
        block = slice(start, max(int(most), start + 1))
        some = rows.rows(block)
        keys = some.row_indices * n_values + some.values
        keys.sort()
        keys = keys[np.diff(keys, prepend=-1) > 0]
        numbers, values = np.divmod(keys, n_values)
        counts[block] = np.bincount(numbers, minlength=some.n_rows)
        found.append(values.astype(rows.values.dtype))
        start = block.stop
    return Ragged.from_lengths(np.concatenate(found), counts)


def nth_absent(
    present: Ragged, rows: npt.NDArray[np.int64], nth: npt.NDArray[np.int64], n_values: int
) -> npt.NDArray[np.int64]:
    """Of the numbers 0 .. n_values - 1 that a row does not have, the ``nth`` (from 0), ascending.

    Args:
        present: rows of such numbers, ascending, each once.
        rows: int64, row indices; broadcast against ``nth``.
        nth: int64, below ``n_values`` minus the row's length.
    """
    # It is nth plus the numbers of the row before it, and those are the ones with
    # values[i] - i <= nth, i being their position in the row.
    row_of = present.row_indices
    absent_before = present.values - (np.arange(len(row_of)) - present.indptr[row_of])
    stride = n_values + 1
    position = np.searchsorted(row_of * stride + absent_before, rows * stride + nth, side="right")
    return nth + position - present.indptr[rows]


def indptr_of(lengths: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """int64 [n_rows + 1], the offsets of rows of these lengths: 0, then their running sum."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def row_indices(indptr: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64 [indptr[-1]], the row of each entry."""
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


def ranges(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """``concatenate([arange(s, s + n) for s, n in zip(starts, lengths)])``, vectorised."""
    indptr = indptr_of(lengths)
    found = np.repeat(starts - indptr[:-1], lengths)
    found += np.arange(len(found))
    return found
