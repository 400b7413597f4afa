"""Reference of ``ops.corpus_error``: dense target, dense difference, autograd."""

from __future__ import annotations

import torch


def corpus_error(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    rows: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """``mean_j (item_out_j h + b_j - x_j)^2`` of every row; see ``ops.corpus_error``."""
    target = hidden.new_zeros(len(hidden), len(item_out))
    target[rows, items] = values.to(hidden.dtype)
    output = hidden @ item_out.to(hidden.dtype).T + item_bias.to(hidden.dtype)
    return (output - target).square().mean(dim=1)
