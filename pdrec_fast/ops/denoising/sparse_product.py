"""Dense scores of sparse histories under a sparse item matrix."""

from __future__ import annotations

import numpy as np
import torch

from pdrec_fast.build_info import extension, extension_problem
from pdrec_fast.ops.arguments import csr, per_row
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import sparse_product as reference

Matrix = tuple[np.ndarray, np.ndarray, np.ndarray]
"""indptr int64 [M + 1], columns int32 [n], values float32 [n]."""


def sparse_product(
    indptr: np.ndarray,
    items: np.ndarray,
    values: np.ndarray,
    matrix: Matrix,
    n_columns: int,
    *,
    impl: str = "auto",
) -> torch.Tensor:
    """``(x @ matrix).to_dense()`` of two sparse matrices. Without gradient.

    Args:
        indptr, items, values: x in CSR form, as of ``SparseRows``; an item may come twice in a row.
        matrix: in CSR form.
        n_columns: of the matrix.
        impl: ``"auto"``, ``"cpp"``: adds row by row in place. ``"reference"``: through a list of
            all products. A number's terms are added in the order of the row's items in both.

    Returns:
        float32 [B, n_columns], on the CPU.

    Raises:
        ValueError: lengths that do not fit, or an item or a column outside the matrix.
        BackendError: the named implementation cannot run here.
    """
    n_rows, n_matrix_rows = len(indptr) - 1, len(matrix[0]) - 1
    indptr, items = csr(indptr, items, n_rows, n_matrix_rows)
    values = per_row("values", values, np.float32, len(items))
    whole = _checked(matrix)
    offered = {"cpp": extension_problem, "reference": None}
    if choose("sparse_product", impl, offered) == "reference":
        _check_columns(whole, n_columns)
        return reference.sparse_product(indptr, items, values, whole, n_columns)
    out, bad = torch.zeros(n_rows, n_columns, dtype=torch.float32), np.zeros(n_rows, np.uint8)
    extension.sparse_product(
        indptr, items, values, *whole, out.numpy(), bad, torch.get_num_threads()
    )
    if bad.any():
        _check_columns(whole, n_columns)
    return out


def _checked(matrix: Matrix) -> Matrix:
    """Contiguous arrays of lengths that fit; columns are checked where they are read."""
    indptr, columns, numbers = matrix
    indptr = per_row("matrix[0] (indptr)", indptr, np.int64, len(indptr))
    columns = per_row("matrix[1] (columns)", columns, np.int32, len(columns))
    if indptr[0] != 0 or indptr[-1] != len(columns) or (np.diff(indptr) < 0).any():
        raise ValueError(
            f"matrix[0] (indptr) must rise from 0 to {len(columns)}, "
            f"got {indptr[0]} .. {indptr[-1]}"
        )
    return indptr, columns, per_row("matrix[2] (values)", numbers, np.float32, len(columns))


def _check_columns(matrix: Matrix, n_columns: int) -> None:
    columns = matrix[1]
    if columns.size and not 0 <= columns.min() <= columns.max() < n_columns:
        raise ValueError(
            f"columns must lie in 0 .. {n_columns - 1}, got {columns.min()} .. {columns.max()}"
        )
