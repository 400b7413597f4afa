"""Gradients of some of a table's rows, summed into a dense gradient that is kept."""

from __future__ import annotations

import torch

from pdrec_fast.build_info import extension
from pdrec_fast.ops.arguments import float_array
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.ops.fitting._rows import check_rows, offered, row_array
from pdrec_fast.reference.fitting import sum_rows as reference


@torch.no_grad()
def sum_rows(
    out: torch.Tensor,
    stale: torch.Tensor,
    rows: torch.Tensor,
    gradients: torch.Tensor,
    *,
    impl: str = "auto",
) -> torch.Tensor:
    """``out.index_fill_(0, stale, 0).index_add_(0, rows, gradients)``.

    Every row of ``rows`` must be zero in ``out`` or among the ``stale``, which keeps a dense
    gradient from step to step without clearing all of it. A row's gradients are added up in their
    order, so that all implementations give equal bits, for any number of threads.

    Args:
        out: [N, d], written in place.
        stale: int64 [k], rows to clear first: what the last call returned, or empty. Repetitions
            are allowed.
        rows: int64 [n], likewise with repetitions.
        gradients: [n, d], what to add to each.
        impl: ``"auto"``, ``"cpp"`` (float32 on the CPU) or ``"reference"``.

    Returns:
        int64 [k'], the rows that are not zero now, perhaps with repetitions.

    Raises:
        ValueError: shapes or devices that do not fit, or (on the CPU) a row outside the table.
        BackendError: the named implementation cannot run here.
    """
    check_rows(out, rows, gradients)
    chosen = choose("sum_rows", impl, offered(out, gradients))
    if chosen == "reference":
        if out.device.type == "cpu":
            row_array(rows, len(out))
        return reference.sum_rows(out, stale, rows, gradients)
    touched = extension.sum_rows(
        row_array(stale, len(out)),
        row_array(rows, len(out)),
        float_array(gradients),
        out.detach().numpy(),
        torch.get_num_threads(),
    )
    return torch.from_numpy(touched).long()
