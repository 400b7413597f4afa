"""Arrays one below the other that are read as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class JoinedRows:
    """The rows of several arrays as those of one array, without putting them together.

    Indices are NumPy's: a slice, a row or rows (integers of any shape, or a bool mask), or a tuple
    of one of them and then of integers, or of slices. What is asked for comes as an ordinary array;
    ``numpy.asarray`` puts all of it together.

    Args:
        pieces: at least one; the same dtype, and the same shape but for the first axis.
    """

    def __init__(self, pieces: Sequence[np.ndarray]) -> None:
        self.pieces = tuple(pieces)
        self._starts = np.cumsum([0, *(len(piece) for piece in self.pieces)])
        self.dtype = self.pieces[0].dtype
        self.shape = (int(self._starts[-1]), *self.pieces[0].shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"JoinedRows({len(self.pieces)} pieces, shape={self.shape}, dtype={self.dtype})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("JoinedRows are put together by copying them: leave out copy=False")
        whole = np.concatenate(self.pieces)
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        first, *others = key if isinstance(key, tuple) else (key,)
        rows = self._row_numbers(first)
        if all(isinstance(other, slice) for other in others):
            within = (slice(None),) * rows.ndim + tuple(others)
            return self._gather(rows)[within]
        kinds = [np.asarray(other).dtype for other in others]
        if isinstance(first, slice) or not all(np.issubdtype(k, np.integer) for k in kinds):
            raise IndexError("rows by integers or a mask go with integers; all go with slices")
        return self._gather(rows, *others)

    def _row_numbers(self, rows: Any) -> np.ndarray:
        """From 0 on, of any shape."""
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"a mask of {len(self)} rows has shape {rows.shape}")
            return np.flatnonzero(rows)
        if rows.size and not np.issubdtype(rows.dtype, np.integer):
            raise IndexError(f"rows must be integers, a mask or a slice, got {rows.dtype}")
        wrong = (rows < -len(self)) | (rows >= len(self))
        if wrong.any():
            raise IndexError(f"row {rows[wrong].flat[0]} of {len(self)} rows")
        return np.where(rows < 0, rows + len(self), rows).astype(np.int64)

    def _gather(self, rows: np.ndarray, *others: Any) -> Any:
        """Elements at row numbers, and at indices of further axes that go with them."""
        index = np.broadcast_arrays(rows, *others)
        found = np.empty(index[0].shape + self.shape[len(index) :], self.dtype)
        owner = np.searchsorted(self._starts, index[0], side="right") - 1
        for number in np.unique(owner):
            at = owner == number
            within = [each[at] for each in index]
            within[0] = within[0] - self._starts[number]
            found[at] = self.pieces[number][tuple(within)]
        return found[()]  # of one element, a number
