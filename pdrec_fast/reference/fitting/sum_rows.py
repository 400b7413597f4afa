"""``sum_rows`` in plain PyTorch."""

from __future__ import annotations

import torch


def sum_rows(
    out: torch.Tensor, stale: torch.Tensor, rows: torch.Tensor, gradients: torch.Tensor
) -> torch.Tensor:
    """See ``ops.fitting.sum_rows``; the arguments are checked there."""
    out.index_fill_(0, stale, 0).index_add_(0, rows, gradients)
    return rows
