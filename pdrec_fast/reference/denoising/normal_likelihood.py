"""``normal_likelihood`` with dense means and variances and autograd."""

from __future__ import annotations

import math

import torch


def normal_likelihood(
    hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor, z: torch.Tensor
) -> torch.Tensor:
    """See ``ops.denoising.normal_likelihood``; the arguments are checked there."""
    mean, log_variance = (hidden @ item_out.T + item_bias).chunk(2, dim=1)
    terms = math.log(2 * math.pi) + log_variance + (z - mean).square() * torch.exp(-log_variance)
    return 0.5 * terms.sum(dim=1)
