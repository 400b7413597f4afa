"""``tanh_error`` with a dense target and autograd."""

from __future__ import annotations

import torch

from pdrec_fast.operands import SparseTarget
from pdrec_fast.reference.denoising.corpus_error import dense


def tanh_error(
    hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor, target: SparseTarget
) -> torch.Tensor:
    """See ``ops.denoising.tanh_error``; the arguments are checked there."""
    output, x = dense(hidden, item_out, item_bias, target)
    return (torch.tanh(output) - x).square().sum(dim=1)
