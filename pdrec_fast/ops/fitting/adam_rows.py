"""A step of Adam for the rows of a table that have a gradient."""

from __future__ import annotations

import math

import torch

from pdrec_fast.build_info import extension
from pdrec_fast.operands import AdamRule, AdamState
from pdrec_fast.ops.arguments import float_array
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.ops.fitting._rows import check_rows, offered, row_array
from pdrec_fast.reference.fitting import adam_rows as reference


@torch.no_grad()
def adam_rows(
    state: AdamState,
    rows: torch.Tensor | None,
    gradients: torch.Tensor,
    *,
    step: int | torch.Tensor,
    rule: AdamRule,
    impl: str = "auto",
) -> None:
    """``torch.optim.SparseAdam``: Adam (Kingma and Ba, 2015) that moves rows with a gradient alone.

    With g the sum of a row's gradients, m and v its running means:
    ``m += (1 - β1) (g - m)``, ``v = β2 v + (1 - β2) g²``,
    ``row = (1 - lr λ) row - lr m / (1 - β1^step) / (sqrt(v / (1 - β2^step)) + eps)``.
    A row without gradient, or whose gradient is all zeros, stays as it is, and so do its means: a
    dense Adam would let them decay, and the row drift along the first. Where every row has a
    gradient, this is a step of ``torch.optim.AdamW``. (``SparseAdam`` adds eps before the second
    mean is corrected, and has no weight decay.)

    A row's gradients are added up in their order, so that the result does not depend on threads.

    Args:
        state: the table and its running means, [N, d] each, written in place.
        rows: int64 [n], whose gradients these are, perhaps with repetitions; None for all, 0 to
            N - 1.
        gradients: [n, d].
        step: number of this step, from 1, of the whole model: it does not count how often a row
            was moved. A tensor [] on the device of the table is read there.
        rule: Adam's settings.
        impl: ``"auto"``, ``"cpp"`` (float32 on the CPU) or ``"reference"``.

    Raises:
        ValueError: shapes or devices that do not fit, or (on the CPU) a row outside the table.
        BackendError: the named implementation cannot run here.
    """
    check_rows(state.table, rows, gradients)
    for name, moment in (("exp_avg", state.exp_avg), ("exp_avg_sq", state.exp_avg_sq)):
        if moment.shape != state.table.shape or moment.device != state.table.device:
            raise ValueError(
                f"{name} must have the table's shape {tuple(state.table.shape)} and be on "
                f"{state.table.device}, got {tuple(moment.shape)} on {moment.device}"
            )
    chosen = choose("adam_rows", impl, offered(*state, gradients))
    if chosen == "reference":
        if rows is not None and rows.device.type == "cpu":
            row_array(rows, len(state.table))
        reference.adam_rows(state, rows, gradients, step, rule)
        return
    extension.adam_rows(
        state.table.detach().numpy(),
        state.exp_avg.numpy(),
        state.exp_avg_sq.numpy(),
        None if rows is None else row_array(rows, len(state.table)),
        float_array(gradients),
        _factors(int(step), rule),
        torch.get_num_threads(),
    )


def _factors(step: int, rule: AdamRule) -> tuple[float, float, float, float, float, float, float]:
    """``AdamFactors`` of csrc/fitting/adam_rows.hpp, in its order."""
    lr, beta1, beta2, eps, weight_decay = rule
    return (
        1 - lr * weight_decay,
        1 - beta1,
        beta2,
        1 - beta2,
        1 / math.sqrt(1 - beta2**step),
        eps,
        lr / (1 - beta1**step),
    )
