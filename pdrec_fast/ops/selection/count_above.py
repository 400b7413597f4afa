"""How many scores of each row lie above a bound, in one pass."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pdrec_fast.build_info import extension, extension_problem
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.selection import count_above as reference


class CountsAbove(NamedTuple):
    """What ``count_above`` finds in each of B rows, all int64 [B].

    Attributes:
        greater, equal: scores above the row's bound, and those equal to it.
        nans: scores that are NaN, which are neither.
    """

    greater: torch.Tensor
    equal: torch.Tensor
    nans: torch.Tensor


@torch.no_grad()
def count_above(scores: torch.Tensor, bounds: torch.Tensor, *, impl: str = "auto") -> CountsAbove:
    """``(scores > b).sum(1), (scores == b).sum(1), scores.isnan().sum(1)``, b being
    ``bounds[:, None]``. Without gradient. +0 and -0 are equal.

    Args:
        scores: [B, C], of any dtype; not modified.
        bounds: [B], on the device of ``scores``.
        impl: ``"auto"``, ``"cpp"``: one pass without a temporary, for float32 on a CPU; rows may
            lie apart, but each is contiguous. ``"reference"``: by masks, anywhere.

    Returns:
        On the device of ``scores``.

    Raises:
        ValueError: the shapes do not fit.
        BackendError: the named implementation cannot run here.
    """
    if scores.ndim != 2 or bounds.shape != scores.shape[:1]:
        raise ValueError(
            "scores must be [B, C] and bounds [B], got shapes "
            f"{tuple(scores.shape)} and {tuple(bounds.shape)}"
        )
    if choose("count_above", impl, _offered(scores, bounds)) == "reference":
        return CountsAbove(*reference.count_above(scores, bounds))
    greater, equal, nans = (torch.empty(len(scores), dtype=torch.int64) for _ in range(3))
    extension.count_above(
        scores.detach().numpy(),
        bounds.detach().contiguous().numpy(),
        greater.numpy(),
        equal.numpy(),
        nans.numpy(),
        torch.get_num_threads(),
    )
    return CountsAbove(greater, equal, nans)


def _offered(scores: torch.Tensor, bounds: torch.Tensor) -> dict[str, str | None]:
    other = None
    if scores.device.type != "cpu" or {scores.dtype, bounds.dtype} != {torch.float32}:
        other = f"it counts float32 on a CPU, got {scores.dtype} on {scores.device}"
    elif scores.numel() and scores.shape[1] > 1 and scores.stride(1) != 1:
        other = "it reads rows whose scores are adjacent"
    if other is None:
        return {"cpp": extension_problem, "reference": None}
    return {"reference": None, "cpp": other}
