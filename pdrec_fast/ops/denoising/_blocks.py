"""A hidden layer against the whole corpus, some items at a time: what losses over it share.

A loss keeps one matrix [B, N], its derivatives by the layer's output but for factors of its rows.
It is laid out block by block, each [B, items] contiguous: a block stays in a core's cache between
the product and the passes over it, and oneDNN multiplies it as it lies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from pdrec_fast import buffers
from pdrec_fast.operands import Categories
from pdrec_fast.ops.onednn import linear

_ITEMS = 1024  # of a block on a CPU: 1 MiB of 256 users
_ITEMS_ON_GPU = 1 << 15  # few and large launches


class Block(NamedTuple):
    """Some items, and the part of the hidden layer that they read.

    Attributes:
        at: where the block lies in a matrix of blocks, in columns.
        items: which rows of the item matrix they are: a range, or int64.
        width: which columns of it count.
    """

    at: slice
    items: slice | torch.Tensor
    width: slice = slice(None)

    def of(self, matrix: torch.Tensor, n_rows: int) -> torch.Tensor:
        """The block [B, items] of a matrix of blocks, [B * N]."""
        return matrix[n_rows * self.at.start : n_rows * self.at.stop].view(n_rows, -1)

    def output(
        self, hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor
    ) -> torch.Tensor:
        """What the layer gives for these items, [B, items]; its memory is the caller's."""
        weight = item_out[self.items, self.width]
        return linear(hidden[:, self.width], weight, item_bias[self.items])


def blocks(n_items: int, device: torch.device) -> list[Block]:
    """All items in their order."""
    ranges = _ranges(0, n_items, _size(device))
    return [Block(at, at) for at in ranges]


def blocks_within(categories: Categories) -> list[Block]:
    """All items, category by category, each with its own part of the hidden layer."""
    of_item, of_width = categories
    order = torch.argsort(of_item, stable=True)
    found, start, left = [], 0, 0
    n_categories = 1 + int(max(of_item.max(), of_width.max()))
    sizes = (torch.bincount(part, minlength=n_categories).tolist() for part in categories)
    for n_items, width in zip(*sizes, strict=True):
        for at in _ranges(start, start + n_items, _size(of_item.device)):
            found.append(Block(at, order[at], slice(left, left + width)))
        start, left = start + n_items, left + width
    return found


def most_blocks(n_items: int, width: int) -> int:
    """No fewer than ``blocks_within`` gives on a CPU where every category of items has a unit."""
    return n_items // _ITEMS + 1 + width


def positions(rows: torch.Tensor, items: torch.Tensor, n_rows: int, n_items: int) -> torch.Tensor:
    """Where the entries at these coordinates lie in a matrix of ``blocks``, int64 like them."""
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
    parts: Iterable[tuple[Block, torch.Tensor]],
    matrix: torch.Tensor,
    hidden: torch.Tensor,
    item_out: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients by hidden layer [B, H], item matrix [N, H] and bias [N].

    Args:
        parts: blocks of all items, each with a factor of every row, [B].
        matrix: what times those factors is the derivative by the layer's output, [B * N] in blocks.
    """
    grad_hidden = torch.zeros_like(hidden)
    grad_items = buffers.empty(item_out.shape, item_out.dtype, item_out.device).zero_()
    grad_bias = item_out.new_empty(len(item_out))
    for block, factors in parts:
        derivative, items, width = block.of(matrix, len(hidden)), block.items, block.width
        # The factors go to the B x H side of every product.
        by_hidden = linear(derivative, item_out[items, width].T)
        grad_hidden[:, width].addcmul_(by_hidden, factors[:, None])
        grad_items[items, width] = linear(derivative.T, (hidden[:, width] * factors[:, None]).T)
        grad_bias[items] = factors @ derivative
    return grad_hidden, grad_items, grad_bias


def _ranges(first: int, last: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, last)) for start in range(first, last, size)]


def _size(device: torch.device) -> int:
    return _ITEMS if device.type == "cpu" else _ITEMS_ON_GPU
