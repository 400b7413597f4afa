"""``noisy_projection`` in float64 on dense matrices."""

from __future__ import annotations

import torch

from pdrec_fast.operands import ItemRows, Noise
from pdrec_fast.reference.denoising.noisy_input import noisy_input


def noisy_projection(rows: ItemRows, noise: Noise, weight: torch.Tensor) -> torch.Tensor:
    """See ``ops.denoising.noisy_projection``; the arguments are checked there."""
    x = torch.empty((len(noise.users), len(weight)), dtype=torch.float64)
    noisy_input(rows, noise, out=x)
    return (x.to(weight.device) @ weight.double()).to(weight.dtype)
