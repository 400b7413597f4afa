"""``noisy_projection`` in float64 on dense matrices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.reference.denoising.noisy_input import noisy_input


def noisy_projection(
    indptr: npt.NDArray[np.int64],
    items: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32],
    signal: npt.NDArray[np.float32],
    sigma: npt.NDArray[np.float32],
    weight: torch.Tensor,
    dropout: float,
    keep_from: int,
    seed: int,
    epoch: int,
    users: npt.NDArray[np.int64],
) -> torch.Tensor:
    """See ``pdrec_fast.ops.denoising.noisy_projection``; the arguments are checked there."""
    x = torch.empty((len(users), len(weight)), dtype=torch.float64)
    noisy_input(indptr, items, values, signal, sigma, dropout, keep_from, seed, epoch, users, out=x)
    return (x.to(weight.device) @ weight.double()).to(weight.dtype)
