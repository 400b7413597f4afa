"""``corpus_cross_entropy`` with a dense target and autograd."""

from __future__ import annotations

import torch

from pdrec_fast.operands import SparseTarget
from pdrec_fast.reference.denoising.corpus_error import dense


def corpus_cross_entropy(
    hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor, target: SparseTarget
) -> torch.Tensor:
    """See ``ops.denoising.corpus_cross_entropy``; the arguments are checked there."""
    output, x = dense(hidden, item_out, item_bias, target)
    return -(x * torch.log_softmax(output, dim=1)).sum(dim=1)
