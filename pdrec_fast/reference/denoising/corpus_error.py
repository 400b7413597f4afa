"""``corpus_error`` with a dense target, a dense difference and autograd."""

from __future__ import annotations

import torch

from pdrec_fast.operands import SparseTarget


def corpus_error(
    hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor, target: SparseTarget
) -> torch.Tensor:
    """See ``ops.denoising.corpus_error``; the arguments are checked there."""
    x = hidden.new_zeros(len(hidden), len(item_out))
    x[target.rows, target.items] = target.values.to(hidden.dtype)
    output = hidden @ item_out.to(hidden.dtype).T + item_bias.to(hidden.dtype)
    return (output - x).square().mean(dim=1)
