"""``packed_gru`` by torch's own layer, which is cuDNN's on a GPU."""

from __future__ import annotations

import torch


def packed_gru(
    x: torch.Tensor,
    sizes: torch.Tensor,
    in_weight: torch.Tensor,
    weight: torch.Tensor,
    in_bias: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """See ``pdrec_fast.ops.packed.packed_gru.packed_gru``; the arguments are checked there."""
    start = x.new_zeros((1, int(sizes[0]), weight.shape[1]))
    parameters = [in_weight, weight, in_bias, bias]
    # Has biases; one layer; no dropout; kept for a gradient or not; one direction.
    return torch.gru(x, sizes, start, parameters, True, 1, 0.0, torch.is_grad_enabled(), False)[0]
