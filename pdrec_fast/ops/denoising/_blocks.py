"""A hidden layer against the whole corpus, some items at a time: what losses over it share.

A loss keeps one matrix [B, N], its derivatives by the layer's output but for the rows' scales. It is
laid out block by block, each [B, items] contiguous: a block stays in a core's cache between the
product and the passes over it, and oneDNN multiplies it as it lies.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from pdrec_fast import buffers
from pdrec_fast.ops.onednn import linear

_ITEMS = 1024  # of a block on a CPU: 1 MiB of 256 users
_ITEMS_ON_GPU = 1 << 15  # few and large launches

Part = tuple[slice, torch.Tensor, torch.Tensor]  # items, their block, a factor of each row [B]


def ranges(n_items: int, device: torch.device) -> list[slice]:
    """The items of the blocks."""
    size = _size(device)
    return [slice(start, min(start + size, n_items)) for start in range(0, n_items, size)]


def block(matrix: torch.Tensor, items: slice, n_rows: int) -> torch.Tensor:
    """The block [B, items] of a matrix that is laid out so, [B * N]."""
    return matrix[n_rows * items.start : n_rows * items.stop].view(n_rows, -1)


def positions(rows: torch.Tensor, items: torch.Tensor, n_rows: int, n_items: int) -> torch.Tensor:
    """Where the entries at these coordinates lie in such a matrix, int64 like them."""
    size = _size(items.device)
    starts = items - items % size
    widths = (n_items - starts).clamp_max(size)
    return n_rows * starts + rows * widths + items - starts


def predicted(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    rows: torch.Tensor,
    items: torch.Tensor,
) -> torch.Tensor:
    """The layer's output at some coordinates alone, [nnz]."""
    return (hidden[rows] * item_out[items]).sum(dim=1) + item_bias[items]


def layer_gradients(
    parts: Iterable[Part], hidden: torch.Tensor, item_out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients by hidden layer [B, H], item matrix [N, H] and bias [N], from the derivatives by the
    layer's output: every block times the factors of its rows. The parts have all items."""
    grad_hidden = torch.zeros_like(hidden)
    grad_items = buffers.empty(item_out.shape, item_out.dtype, item_out.device)
    grad_bias = item_out.new_empty(len(item_out))
    for items, of_items, factors in parts:
        # The rows' factors go to the B x H side of every product.
        grad_hidden.addcmul_(linear(of_items, item_out[items].T), factors[:, None])
        grad_items[items] = linear(of_items.T, (hidden * factors[:, None]).T)
        grad_bias[items] = factors @ of_items
    return grad_hidden, grad_items, grad_bias


def _size(device: torch.device) -> int:
    return _ITEMS if device.type == "cpu" else _ITEMS_ON_GPU
