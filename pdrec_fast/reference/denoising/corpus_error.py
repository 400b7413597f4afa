"""``corpus_error`` with a dense target, a dense difference and autograd."""

from __future__ import annotations

import torch

from pdrec_fast.operands import SparseTarget


def corpus_error(
    hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor, target: SparseTarget
) -> torch.Tensor:
    """See ``ops.denoising.corpus_error``; the arguments are checked there."""
    output, x = dense(hidden, item_out, item_bias, target)
    return (output - x).square().mean(dim=1)


def dense(
    hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor, target: SparseTarget
) -> tuple[torch.Tensor, torch.Tensor]:
    """(prediction, target), [B, N] each."""
    x = hidden.new_zeros(len(hidden), len(item_out))
    x[target.rows, target.items] = target.values.to(hidden.dtype)
    return hidden @ item_out.to(hidden.dtype).T + item_bias.to(hidden.dtype), x
