"""Weights that are numbers: what a training that has diverged leaves is neither saved nor used."""

from __future__ import annotations

import math

import torch
from torch import nn

from pdrec_fast.errors import NonFiniteLossError

LARGEST_WEIGHT = 1e18
"""Sums of squares of more than that, and with them norms, come to the end of float32."""


def largest(tensor: torch.Tensor) -> float:
    """The largest magnitude, NaN where one number is; 0 of integers, and of nothing."""
    if not (tensor.is_floating_point() and tensor.numel()):
        return 0.0
    # ``isfinite`` of an item matrix would make four temporaries of its size.
    return float(torch.stack(torch.aminmax(tensor.detach())).abs().max())


def check_parameters(module: nn.Module, name: str) -> None:
    """Raises NonFiniteLossError where a parameter is NaN or infinite. Buffers may be infinite, as
    masks of an encoder of one's own are."""
    for key, parameter in module.named_parameters():
        if not math.isfinite(largest(parameter)):
            raise NonFiniteLossError(
                f"{name}: the weights {key} are NaN or infinite, so that it is neither saved nor "
                "exported; train it anew, or load the last one that was saved"
            )
