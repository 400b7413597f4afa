# mypy: disallow-untyped-defs=False
"""The reverse process of diffusion in the hidden layer: all T steps of a tile of users at once.

For (T - 1) 2 B H^2 operations in products, arithmetic bounds it in float32 and L2 in bf16
(docs/performance.md). The tiles are the largest that do not spill: the accumulator takes 32 of each
of 256 threads' registers in float32 and 64 in bf16. The projection is what sums begin with, so that
only g is loaded beside them at the end.

All H columns of g do not fit the registers or the shared memory of a multiprocessor at H = 1000:
g, in the dtype of gram, and the projection lie in a scratch that each program writes and reads for
its own users only. A step reads all columns of one g and writes another, with one barrier between
steps: what a block has written its own threads see after it. No two programs share anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.operands import operand
from pdrec_fast.operands import Chain, ItemRows


@dataclass(frozen=True)
class Tile:
    """Users, columns (hidden units) and depth of a product's tile; ``tl.dot``'s precision of
    float32: "ieee", or "tf32x3", three products on tensor cores that keep most of its digits."""

    rows: int
    columns: int
    depth: int
    n_warps: int
    n_stages: int
    precision: str = "ieee"


def tile_for(hidden: int, dtype: torch.dtype) -> Tile:
    columns = max(triton.next_power_of_2(hidden), 16)
    if dtype == torch.float32:
        return Tile(64, min(columns, 128), 16, 8, 2)
    return Tile(64, min(columns, 256), 32, 8, 3)


@triton.jit
def _tanh(x):
    """Within 3 units of float32's last place: x + x^3 p(x^2) where 1 - 2 / (e^2x + 1) cancels."""
    size = tl.abs(x)
    z = x * x
    p = -0.00570498453 * z + 0.0206390843
    p = p * z - 0.0537397154
    p = p * z + 0.133314416
    p = p * z - 0.333332807
    decay = tl.exp(-2.0 * size)
    far = 1.0 - 2.0 * decay / (1.0 + decay)
    return tl.where(size < 0.625, x + x * (z * p), tl.where(x < 0, -far, far))


@triton.jit
def _load_matrix(pointer, rows, row_mask, columns, HIDDEN: tl.constexpr):
    """Rows x columns of a matrix of HIDDEN columns, 0 outside it."""
    inside = row_mask[:, None] & (columns < HIDDEN)[None, :]
    at = rows.to(tl.int64)[:, None] * HIDDEN + columns[None, :]
    return tl.load(pointer + at, mask=inside, other=0.0)


@triton.jit
def _store_matrix(pointer, rows, row_mask, columns, values, HIDDEN: tl.constexpr):
    inside = row_mask[:, None] & (columns < HIDDEN)[None, :]
    at = rows.to(tl.int64)[:, None] * HIDDEN + columns[None, :]
    tl.store(pointer + at, values.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _load_row(pointer, row, columns, HIDDEN: tl.constexpr):
    at = row * HIDDEN + columns
    return tl.load(pointer + at, mask=columns < HIDDEN, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["n_rows"])
def _chain_kernel(
    indptr_ptr,
    items_ptr,
    values_ptr,
    item_in_ptr,
    gram_ptr,
    bias_ptr,
    time_ptr,
    x0_coefficient_ptr,
    xt_coefficient_ptr,
    projection_ptr,
    g_ptr,
    out_ptr,
    n_rows,
    n_steps,
    HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    first = tl.program_id(0) * BLOCK_ROWS
    rows = first + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < n_rows
    begins = tl.load(indptr_ptr + rows, mask=row_mask, other=0)
    ends = tl.load(indptr_ptr + rows + 1, mask=row_mask, other=0)
    tile_begin = tl.load(indptr_ptr + first)
    tile_end = tl.load(indptr_ptr + tl.minimum(first + BLOCK_ROWS, n_rows))

    # The first step, in which the state is x_0 and g is 0.
    t = n_steps - 1
    c1 = tl.load(x0_coefficient_ptr + t)
    a = tl.load(xt_coefficient_ptr + t)
    s = c1
    for column in range(0, HIDDEN, BLOCK_COLUMNS):
        columns = column + tl.arange(0, BLOCK_COLUMNS)
        projection = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
        for start in range(tile_begin, tile_end, BLOCK_DEPTH):
            places = start + tl.arange(0, BLOCK_DEPTH)
            items = tl.load(items_ptr + places, mask=places < tile_end, other=0)
            values = tl.load(values_ptr + places, mask=places < tile_end, other=0.0)
            weight = _load_matrix(item_in_ptr, items, places < tile_end, columns, HIDDEN)
            own = (places[None, :] >= begins[:, None]) & (places[None, :] < ends[:, None])
            x0 = tl.where(own, values[None, :], 0.0).to(weight.dtype)
            projection = tl.dot(operand(x0), operand(weight), projection, input_precision=PRECISION)
        h = _tanh(projection + _load_row(time_ptr, t, columns, HIDDEN)[None, :])
        _store_matrix(projection_ptr, rows, row_mask, columns, projection, HIDDEN)
        _store_matrix(g_ptr, rows, row_mask, columns, c1.to(tl.float32) * h, HIDDEN)
        if n_steps == 1:
            _store_matrix(out_ptr, rows, row_mask, columns, h, HIDDEN)

    size = n_rows.to(tl.int64) * HIDDEN
    for step in range(1, n_steps):
        tl.debug_barrier()
        t = n_steps - 1 - step
        c1 = tl.load(x0_coefficient_ptr + t)
        c2 = tl.load(xt_coefficient_ptr + t)
        source = g_ptr + ((step - 1) % 2) * size
        target = g_ptr + (step % 2) * size
        for column in range(0, HIDDEN, BLOCK_COLUMNS):
            columns = column + tl.arange(0, BLOCK_COLUMNS)
            projection = _load_matrix(projection_ptr, rows, row_mask, columns, HIDDEN)
            offset = _load_row(time_ptr, t, columns, HIDDEN)
            offset += s.to(tl.float32) * _load_row(bias_ptr, 0, columns, HIDDEN)
            sums = a.to(tl.float32) * projection + offset[None, :]
            for start in range(0, HIDDEN, BLOCK_DEPTH):
                depth = start + tl.arange(0, BLOCK_DEPTH)
                gram = _load_matrix(gram_ptr, depth, depth < HIDDEN, columns, HIDDEN)
                g = _load_matrix(source, rows, row_mask, depth, HIDDEN)
                sums = tl.dot(operand(g), operand(gram), sums, input_precision=PRECISION)
            h = _tanh(sums)
            g = _load_matrix(source, rows, row_mask, columns, HIDDEN).to(tl.float32)
            g = c1.to(tl.float32) * h + c2.to(tl.float32) * g
            _store_matrix(target, rows, row_mask, columns, g, HIDDEN)
            if t == 0:
                _store_matrix(out_ptr, rows, row_mask, columns, h, HIDDEN)
        a *= c2
        s = c1 + c2 * s


def hidden_chain(rows: ItemRows, chain: Chain, *, tile: Tile | None = None) -> torch.Tensor:
    """h of step 0, [B, H], of item_in's dtype; contiguous tensors on one device.

    ``item_in`` and ``gram`` are of one dtype.
    """
    item_in = chain.item_in
    n_rows, hidden = len(rows.indptr) - 1, item_in.shape[1]
    out = torch.empty((n_rows, hidden), dtype=item_in.dtype, device=item_in.device)
    if not n_rows:
        return out
    tile = tile or tile_for(hidden, item_in.dtype)
    projection = torch.empty((n_rows, hidden), dtype=torch.float32, device=item_in.device)
    g = torch.empty((2, n_rows, hidden), dtype=item_in.dtype, device=item_in.device)
    with torch.cuda.device_of(item_in):
        _chain_kernel[(triton.cdiv(n_rows, tile.rows),)](
            *rows[:3],
            *chain,
            projection,
            g,
            out,
            n_rows,
            len(chain.time),
            HIDDEN=hidden,
            PRECISION=tile.precision,
            BLOCK_ROWS=tile.rows,
            BLOCK_COLUMNS=tile.columns,
            BLOCK_DEPTH=tile.depth,
            num_warps=tile.n_warps,
            num_stages=tile.n_stages,
        )
    return out
