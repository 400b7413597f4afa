"""``adam_rows`` in plain PyTorch."""

from __future__ import annotations

import torch

from pdrec_fast.operands import AdamRule, AdamState


def adam_rows(
    state: AdamState,
    rows: torch.Tensor | None,
    gradients: torch.Tensor,
    step: int | torch.Tensor,
    rule: AdamRule,
) -> None:
    """See ``ops.fitting.adam_rows``; the arguments are checked there.

    On a GPU nothing here waits for it, and a CUDA graph may record it.
    """
    lr, beta1, beta2, eps, weight_decay = rule
    table, exp_avg, exp_avg_sq = state
    if rows is not None:
        gradients = torch.zeros_like(table).index_add_(0, rows, gradients)
    moves = (gradients != 0).any(dim=1, keepdim=True)
    first = exp_avg.lerp(gradients, 1 - beta1)
    second = exp_avg_sq * beta2 + gradients.square() * (1 - beta2)
    root = (second / (1 - beta2**step)).sqrt()
    update = first / (1 - beta1**step) / (root + eps)
    moved = table * (1 - lr * weight_decay) - lr * update
    for old, new in zip(state, (moved, first, second), strict=True):
        old.copy_(torch.where(moves, new, old))
