"""``sparse_product`` by an entry for every product of two numbers."""

from __future__ import annotations

import numpy as np
import torch

from pdrec_fast.ragged import ranges, row_indices


def sparse_product(
    indptr: np.ndarray,
    items: np.ndarray,
    values: np.ndarray,
    matrix: tuple[np.ndarray, np.ndarray, np.ndarray],
    n_columns: int,
) -> torch.Tensor:
    """See ``ops.denoising.sparse_product``; the arguments are checked there."""
    matrix_indptr, columns, numbers = matrix
    lengths = np.diff(matrix_indptr)[items]
    at = ranges(matrix_indptr[items], lengths)
    row = np.repeat(row_indices(indptr), lengths)
    product = np.repeat(values, lengths) * numbers[at]
    out = torch.zeros(len(indptr) - 1, n_columns, dtype=torch.float32)
    places = torch.from_numpy(row * n_columns + columns[at])
    out.view(-1).index_add_(0, places, torch.from_numpy(product))
    return out
