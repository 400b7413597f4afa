"""What operations on a table's rows share: checks, and which implementations can run.

They write in place outside of any graph, as an optimiser does, so they are no custom ops."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.build_info import extension_problem


def check_rows(table: torch.Tensor, rows: torch.Tensor | None, gradients: torch.Tensor) -> None:
    """What can be checked without waiting for a GPU.

    Raises:
        ValueError: the table [N, d], rows [n] and gradients [n, d] do not fit, or lie on different
            devices.
    """
    if table.ndim != 2:
        raise ValueError(f"the table must have shape [N, d], got {tuple(table.shape)}")
    n = len(table)
    if rows is not None:
        if rows.ndim != 1 or rows.dtype != torch.int64:
            raise ValueError(
                f"rows must be int64 of shape [n], got {rows.dtype} of shape {tuple(rows.shape)}"
            )
        n = len(rows)
    if gradients.shape != (n, table.shape[1]):
        raise ValueError(
            f"gradients must have shape [{n}, {table.shape[1]}], got {tuple(gradients.shape)}"
        )
    for name, tensor in (("rows", rows), ("gradients", gradients)):
        if tensor is not None and tensor.device != table.device:
            raise ValueError(
                f"{name} must be on the device of the table, {table.device}, got {tensor.device}"
            )


def offered(*tensors: torch.Tensor) -> dict[str, str | None]:
    """What to offer to ``choose``; the first tensors are written to, the last is read."""
    problem = extension_problem
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            problem = problem or (
                f"it computes in float32 on the CPU, got {tensor.dtype} on {tensor.device}"
            )
    if not all(tensor.is_contiguous() for tensor in tensors[:-1]):
        problem = problem or "it writes to contiguous tensors only"
    on_cpu = tensors[0].device.type == "cpu"
    return {"cpp": problem, "reference": None} if on_cpu else {"reference": None, "cpp": problem}


def row_array(rows: torch.Tensor, n_rows: int) -> npt.NDArray[np.int32]:
    """``rows`` as an int32 array, checked so that no kernel can write outside the table.

    Raises:
        ValueError: a row outside 0 .. n_rows - 1.
    """
    array = rows.numpy()
    if array.size and not (array.min() >= 0 and array.max() < n_rows):
        at = int(np.argmax((array < 0) | (array >= n_rows)))
        raise ValueError(f"rows must lie in 0 .. {n_rows - 1}, got {array[at]} at {at}")
    return array.astype(np.int32)
