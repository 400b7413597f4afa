"""How many of a row's sums with weighted scores lie above a bound, for many weights at once."""

from __future__ import annotations

import torch

from pdrec_fast.build_info import extension, extension_problem
from pdrec_fast.ops.arguments import float_array
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.ops.selection.count_above import CountsAbove
from pdrec_fast.reference.selection import count_above_sums as reference


@torch.no_grad()
def count_above_sums(
    logits: torch.Tensor,
    scores: torch.Tensor,
    weights: torch.Tensor,
    bounds: torch.Tensor,
    *,
    impl: str = "auto",
) -> CountsAbove:
    """``count_above(logits + w * scores, bounds[0] + w * bounds[1])`` for every weight w.

    Args:
        logits, scores: [B, C], of one floating dtype, on one device; not modified.
        weights: [W], at least one.
        bounds: [2, B]: of the logits and of the scores, like them.
        impl: ``"auto"``, ``"cpp"``: one pass over memory without a temporary, for float32 on a CPU.
            ``"reference"``: a sum for every weight, anywhere. Products and sums are
            rounded apart, so that both count the same.

    Returns:
        Counts int64 [B, W], on the device of ``logits``.

    Raises:
        ValueError: the shapes do not fit.
        BackendError: the named implementation cannot run here.
    """
    n_rows = len(logits) if logits.ndim == 2 else -1
    if scores.shape != logits.shape or bounds.shape != (2, n_rows) or weights.ndim != 1:
        raise ValueError(
            "logits and scores must be [B, C], weights [W] and bounds [2, B], got shapes "
            f"{tuple(logits.shape)}, {tuple(scores.shape)}, {tuple(weights.shape)} and "
            f"{tuple(bounds.shape)}"
        )
    if not len(weights):
        raise ValueError("weights must have at least one")
    if choose("count_above_sums", impl, _offered(logits, scores, bounds)) == "reference":
        return CountsAbove(*reference.count_above_sums(logits, scores, weights, bounds))
    counts = [torch.empty(n_rows, len(weights), dtype=torch.int64) for _ in range(3)]
    extension.count_above_sums(
        float_array(logits),
        float_array(scores),
        float_array(weights.float()),
        float_array(bounds),
        counts[0].numpy(),
        counts[1].numpy(),
        counts[2].numpy(),
        torch.get_num_threads(),
    )
    return CountsAbove(*counts)


def _offered(*given: torch.Tensor) -> dict[str, str | None]:
    for tensor in given:
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            other = f"it counts float32 on a CPU, got {tensor.dtype} on {tensor.device}"
            return {"reference": None, "cpp": other}
    return {"cpp": extension_problem, "reference": None}
