"""``corpus_cross_entropy`` with a dense target and autograd."""

from __future__ import annotations

import torch

from pdrec_fast.operands import SparseTarget


def corpus_cross_entropy(
    hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor, target: SparseTarget
) -> torch.Tensor:
    """See ``ops.denoising.corpus_cross_entropy``; the arguments are checked there."""
    x = hidden.new_zeros(len(hidden), len(item_out))
    x[target.rows, target.items] = target.values.to(hidden.dtype)
    output = hidden @ item_out.to(hidden.dtype).T + item_bias.to(hidden.dtype)
    return -(x * torch.log_softmax(output, dim=1)).sum(dim=1)
