"""``packed_gru`` by torch's own layer, which is cuDNN's on a GPU."""

from __future__ import annotations

import torch

from pdrec_fast.operands import GruLayer


def packed_gru(x: torch.Tensor, sizes: torch.Tensor, layer: GruLayer) -> torch.Tensor:
    """See ``ops.packed.packed_gru``; the arguments are checked there."""
    start = x.new_zeros((1, int(sizes[0]), layer.weight.shape[1]))
    # Has biases; one layer; no dropout; kept for a gradient or not; one direction.
    options = True, 1, 0.0, torch.is_grad_enabled(), False
    return torch.gru(x, sizes, start, list(layer), *options)[0]
