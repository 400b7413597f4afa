# mypy: disallow-untyped-defs=False
"""x_t @ weight and its gradient; the noise of x_t is made where the product needs it.

With B users, N items and H hidden units, x_t = keep / (1 - p) * (signal x0 + sigma eps) is [B, N]
and dense, and neither it nor eps is ever in memory. The few non-zeros of x0 are added apart.

For 2 B N H operations in products and one pass over the weight, some 60 instructions make the noise
of each of B N elements, again for every tile of hidden units, and they bound the kernels
(docs/performance.md): hence tiles as wide in hidden units as registers hold. The accumulator is
64 x 512 or, for H <= 256, 128 x 256, in fp32; a taller tile would read less and repeat the noise
more often. H is a constant of the kernels, so that rows are known to be aligned: 16-byte loads
where it is a multiple of 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.denoising.noisy_input import (
    NOT_SPECIALIZED,
    load_rows,
    noise_tile,
    signals_at_nonzeros,
    word_arguments,
)
from pdrec_fast.kernels.triton.operands import operand
from pdrec_fast.operands import ItemRows, Noise

_PROGRAMS = 132  # multiprocessors of an H100 or H200; fixed, so that sums have the same order


@dataclass(frozen=True)
class Tile:
    """Rows and columns (hidden units) of a product's tile, and how much it sums at a time."""

    rows: int
    columns: int
    depth: int
    n_warps: int
    n_stages: int


def tile_for(hidden: int, dtype: torch.dtype) -> Tile:
    """By shape, not by timing: another tile sums in another order, and a run should repeat."""
    columns = max(triton.next_power_of_2(hidden), 16)
    if dtype == torch.float32:  # no tensor cores: both operands come from shared memory
        return Tile(64, min(columns, 128), 16, 8, 2)
    if columns > 256:
        return Tile(64, 512, 64, 8, 2)
    return Tile(128, columns, 32, 8, 3)


@triton.jit
def _load_matrix(pointer, rows, columns, n_rows, n_columns):
    """Rows x columns of a contiguous matrix, 0 outside it."""
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    at = rows.to(tl.int64)[:, None] * n_columns + columns[None, :]
    return tl.load(pointer + at, mask=inside, other=0.0)


@triton.jit
def _add_product(sums, a, b):
    return tl.dot(operand(a), operand(b), sums, input_precision="ieee")


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _noise_product_kernel(
    weight_ptr,
    sigma_ptr,
    users_ptr,
    partial_ptr,
    n_rows,
    n_items,
    slab,
    seed,
    epoch,
    first_block,
    keep_from,
    keep_scale,
    HIDDEN: tl.constexpr,
    HAS_DROPOUT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """The noise of a tile of users times the weights of a slab of items."""
    seed, epoch, keep_from = seed.to(tl.uint64), epoch.to(tl.uint32), keep_from.to(tl.uint32)
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    sigma, users = load_rows(sigma_ptr, users_ptr, rows, n_rows)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    first = tl.program_id(2) * slab
    for start in range(first, tl.minimum(first + slab, n_items), BLOCK_DEPTH):
        items = start + tl.arange(0, BLOCK_DEPTH)
        weight = _load_matrix(weight_ptr, items, columns, n_items, HIDDEN)
        blocks = first_block + start // 4 + tl.arange(0, BLOCK_DEPTH // 4)
        x = noise_tile(sigma, users, blocks, seed, epoch, keep_from, keep_scale, HAS_DROPOUT)
        sums = _add_product(sums, x.to(weight.dtype), weight)
    at = (tl.program_id(2) * n_rows + rows).to(tl.int64)[:, None] * HIDDEN + columns[None, :]
    inside = (rows < n_rows)[:, None] & (columns < HIDDEN)[None, :]
    tl.store(partial_ptr + at, sums, mask=inside)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _combine_kernel(
    partial_ptr,
    indptr_ptr,
    items_ptr,
    signals_ptr,
    weight_ptr,
    out_ptr,
    n_rows,
    n_items,
    n_slabs,
    HIDDEN: tl.constexpr,
    BLOCK_NONZEROS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """A row's partial sums, and the weights of the items in its history times their signals."""
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    sums = tl.zeros((BLOCK_COLUMNS,), dtype=tl.float32)
    for slab in range(n_slabs):
        at = (slab * n_rows + row).to(tl.int64) * HIDDEN
        sums += tl.load(partial_ptr + at + columns, mask=columns < HIDDEN, other=0.0)
    begin, end = tl.load(indptr_ptr + row), tl.load(indptr_ptr + row + 1)
    for start in range(begin, end, BLOCK_NONZEROS):
        places = start + tl.arange(0, BLOCK_NONZEROS)
        items = tl.load(items_ptr + places, mask=places < end, other=n_items)
        signals = tl.load(signals_ptr + places, mask=places < end, other=0.0)
        weight = _load_matrix(weight_ptr, items, columns, n_items, HIDDEN).to(tl.float32)
        sums += tl.sum(signals[:, None] * weight, axis=0)
    at = row.to(tl.int64) * HIDDEN + columns
    tl.store(out_ptr + at, sums, mask=columns < HIDDEN)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _weight_gradient_kernel(
    grad_out_ptr,
    sigma_ptr,
    users_ptr,
    rows_ptr,
    items_ptr,
    signals_ptr,
    bounds_ptr,
    grad_weight_ptr,
    n_rows,
    n_items,
    seed,
    epoch,
    first_block,
    keep_from,
    keep_scale,
    HIDDEN: tl.constexpr,
    HAS_DROPOUT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """x_t' @ grad_out for a tile of items; the non-zeros of x0 come sorted by item.

    A chunk of non-zeros is a product as well: each is a column of a matrix with one entry.
    """
    seed, epoch, keep_from = seed.to(tl.uint64), epoch.to(tl.uint32), keep_from.to(tl.uint32)
    columns = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    first = tl.program_id(1) * BLOCK_ROWS
    blocks = first_block + first // 4 + tl.arange(0, BLOCK_ROWS // 4)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    for start in range(0, n_rows, BLOCK_DEPTH):
        rows = start + tl.arange(0, BLOCK_DEPTH)
        grad_out = _load_matrix(grad_out_ptr, rows, columns, n_rows, HIDDEN)
        sigma, users = load_rows(sigma_ptr, users_ptr, rows, n_rows)
        x = noise_tile(sigma, users, blocks, seed, epoch, keep_from, keep_scale, HAS_DROPOUT)
        sums = _add_product(sums, tl.trans(x.to(grad_out.dtype)), grad_out)
    tile_items = first + tl.arange(0, BLOCK_ROWS)
    begin, end = tl.load(bounds_ptr + tl.program_id(1)), tl.load(bounds_ptr + tl.program_id(1) + 1)
    for start in range(begin, end, BLOCK_DEPTH):
        places = start + tl.arange(0, BLOCK_DEPTH)
        # Triton 3.2 pipelines such loads with an ``other`` of 0 only.
        items = tl.load(items_ptr + places, mask=places < end, other=0)
        signals = tl.load(signals_ptr + places, mask=places < end, other=0.0)
        rows = tl.load(rows_ptr + places, mask=places < end, other=0)
        rows = tl.where(places < end, rows, n_rows)
        grad_out = _load_matrix(grad_out_ptr, rows, columns, n_rows, HIDDEN)
        x = tl.where(tile_items[:, None] == items[None, :], signals[None, :], 0.0)
        sums = _add_product(sums, x.to(grad_out.dtype), grad_out)
    at = tile_items.to(tl.int64)[:, None] * HIDDEN + columns[None, :]
    inside = (tile_items < n_items)[:, None] & (columns < HIDDEN)[None, :]
    tl.store(grad_weight_ptr + at, sums, mask=inside)


def noisy_projection(weight: torch.Tensor, rows: ItemRows, noise: Noise) -> torch.Tensor:
    """x_t @ weight, [B, H]; contiguous tensors on one device, B at least 1."""
    (n_items, hidden), n_rows = weight.shape, len(noise.sigma)
    tile = tile_for(hidden, weight.dtype)
    n_tiles = triton.cdiv(n_rows, tile.rows), triton.cdiv(hidden, tile.columns)
    depths = triton.cdiv(n_items, tile.depth)
    slab = triton.cdiv(depths, max(_PROGRAMS // (n_tiles[0] * n_tiles[1]), 1))
    n_slabs = triton.cdiv(depths, slab)
    partial = torch.empty((n_slabs, n_rows, hidden), dtype=torch.float32, device=weight.device)
    grid = *n_tiles, n_slabs
    _, signals = signals_at_nonzeros(rows, noise)
    out = torch.empty((n_rows, hidden), dtype=weight.dtype, device=weight.device)
    with torch.cuda.device_of(weight):
        _noise_product_kernel[grid](
            weight,
            noise.sigma,
            noise.users,
            partial,
            n_rows,
            n_items,
            slab * tile.depth,
            **word_arguments(noise),
            HIDDEN=hidden,
            **_blocks(tile),
        )
        _combine_kernel[(n_rows, triton.cdiv(hidden, 128))](
            partial,
            rows.indptr,
            rows.items,
            signals,
            weight,
            out,
            n_rows,
            n_items,
            n_slabs,
            HIDDEN=hidden,
            BLOCK_NONZEROS=16,
            BLOCK_COLUMNS=128,
        )
    return out


def weight_gradient(grad_out: torch.Tensor, rows: ItemRows, noise: Noise) -> torch.Tensor:
    """x_t' @ grad_out, [N, H]; contiguous tensors on one device, B at least 1."""
    (n_rows, hidden), n_items = grad_out.shape, rows.n_items
    tile = tile_for(hidden, grad_out.dtype)
    row_indices, signals = signals_at_nonzeros(rows, noise)
    items, order = rows.items.sort(stable=True)
    n_tiles = triton.cdiv(n_items, tile.rows)
    firsts = torch.arange(n_tiles + 1, device=items.device, dtype=items.dtype) * tile.rows
    grad_weight = torch.empty((n_items, hidden), dtype=grad_out.dtype, device=grad_out.device)
    with torch.cuda.device_of(grad_out):
        _weight_gradient_kernel[(triton.cdiv(hidden, tile.columns), n_tiles)](
            grad_out,
            noise.sigma,
            noise.users,
            row_indices[order],
            items,
            signals[order],
            torch.searchsorted(items, firsts),
            grad_weight,
            n_rows,
            n_items,
            **word_arguments(noise),
            HIDDEN=hidden,
            **_blocks(tile),
        )
    return grad_weight


def _blocks(tile: Tile) -> dict[str, int]:
    return {
        "BLOCK_ROWS": tile.rows,
        "BLOCK_COLUMNS": tile.columns,
        "BLOCK_DEPTH": tile.depth,
        "num_warps": tile.n_warps,
        "num_stages": tile.n_stages,
    }
