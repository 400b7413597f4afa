# mypy: disallow-untyped-defs=False
"""Prediction of the whole corpus minus its sparse target, and its rows' squares, in one pass.

For 2 B N H operations in products it reads item_out and writes the difference once: both bound it
in bf16, arithmetic in float32 (docs/performance.md). Tiles are those of plain products: an
accumulator of 128 x 256 in bf16, 128 registers of each of 256 threads, and 64 x 128 in float32.
Tiles of the same items run side by side, so that item_out is read from memory once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.operands import operand
from pdrec_fast.operands import SparseTarget

_PAIRS = 16  # non-zeros of the target subtracted at a time: the least depth of a product


@dataclass(frozen=True)
class Tile:
    """Rows, items and depth of a product's tile; ``tl.dot``'s precision of float32."""

    rows: int
    items: int
    depth: int
    n_warps: int
    n_stages: int
    precision: str = "ieee"


def tile_for(dtype: torch.dtype) -> Tile:
    """By dtype, not by timing: another tile sums in another order, and a run should repeat."""
    if dtype == torch.float32:
        return Tile(64, 128, 16, 8, 2)
    return Tile(128, 256, 64, 8, 3)


@triton.jit
def _load_rows(pointer, rows, n_rows, columns, HIDDEN: tl.constexpr):
    inside = (rows < n_rows)[:, None] & (columns < HIDDEN)[None, :]
    at = rows.to(tl.int64)[:, None] * HIDDEN + columns[None, :]
    return tl.load(pointer + at, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["n_rows"])
def _difference_kernel(
    hidden_ptr,
    item_out_ptr,
    item_bias_ptr,
    pair_rows_ptr,
    pair_items_ptr,
    pair_values_ptr,
    bounds_ptr,
    difference_ptr,
    squares_ptr,
    n_rows,
    n_items,
    HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    items = tl.program_id(1) * BLOCK_ITEMS + tl.arange(0, BLOCK_ITEMS)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_ITEMS), dtype=tl.float32)
    for start in range(0, HIDDEN, BLOCK_DEPTH):
        columns = start + tl.arange(0, BLOCK_DEPTH)
        hidden = _load_rows(hidden_ptr, rows, n_rows, columns, HIDDEN)
        item_out = _load_rows(item_out_ptr, items, n_items, columns, HIDDEN)
        sums = tl.dot(operand(hidden), operand(tl.trans(item_out)), sums, input_precision=PRECISION)
    tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    begin, end = tl.load(bounds_ptr + tile), tl.load(bounds_ptr + tile + 1)
    for start in range(begin, end, BLOCK_PAIRS):
        # A product as well: a pair is a column with its value and a row with a one.
        pairs = start + tl.arange(0, BLOCK_PAIRS)
        pair_rows = tl.load(pair_rows_ptr + pairs, mask=pairs < end, other=0)
        pair_items = tl.load(pair_items_ptr + pairs, mask=pairs < end, other=0)
        values = tl.load(pair_values_ptr + pairs, mask=pairs < end, other=0.0).to(tl.float32)
        values = tl.where(rows[:, None] == pair_rows[None, :], -values[None, :], 0.0)
        ones = tl.where(pair_items[:, None] == items[None, :], 1.0, 0.0)
        ones = ones.to(difference_ptr.dtype.element_ty)
        sums = tl.dot(operand(values.to(ones.dtype)), operand(ones), sums, input_precision="ieee")
    bias = tl.load(item_bias_ptr + items, mask=items < n_items, other=0.0).to(tl.float32)
    sums += bias[None, :]
    at = rows.to(tl.int64)[:, None] * n_items + items[None, :]
    inside = (rows < n_rows)[:, None] & (items < n_items)[None, :]
    tl.store(difference_ptr + at, sums.to(difference_ptr.dtype.element_ty), mask=inside)
    squares = tl.sum(sums * sums, axis=1)
    tl.store(squares_ptr + tl.program_id(1) * n_rows + rows, squares, mask=rows < n_rows)


def corpus_error(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    target: SparseTarget,
    *,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(squared norms of the rows, float32 [B]; prediction minus x, [B, N], of hidden's dtype).

    ``hidden`` and ``item_out`` are of one dtype; all on one device. The sums of squares
    are of the difference before it is rounded, in an order that only the tile decides.
    """
    hidden, item_out, item_bias = (x.contiguous() for x in (hidden, item_out, item_bias))
    rows, items, values = target
    (n_rows, width), n_items = hidden.shape, len(item_out)
    out = torch.empty((n_rows, n_items), dtype=hidden.dtype, device=hidden.device)
    tile = tile or tile_for(hidden.dtype)
    grid = triton.cdiv(n_rows, tile.rows), triton.cdiv(n_items, tile.items)
    squares = torch.empty((grid[1], n_rows), dtype=torch.float32, device=hidden.device)
    if n_rows:
        tiles, order = (items // tile.items * grid[0] + rows // tile.rows).sort()
        bounds = torch.arange(grid[0] * grid[1] + 1, dtype=tiles.dtype, device=tiles.device)
        with torch.cuda.device_of(hidden):
            _difference_kernel[grid](
                hidden,
                item_out,
                item_bias,
                rows[order],
                items[order],
                values[order],
                torch.searchsorted(tiles, bounds),
                out,
                squares,
                n_rows,
                n_items,
                HIDDEN=width,
                PRECISION=tile.precision,
                BLOCK_ROWS=tile.rows,
                BLOCK_ITEMS=tile.items,
                BLOCK_DEPTH=tile.depth,
                BLOCK_PAIRS=_PAIRS,
                num_warps=tile.n_warps,
                num_stages=tile.n_stages,
            )
    return squares.sum(dim=0), out
