"""Gradients of a loss of candidates' logits.

States' gradient: reads T C rows of the table, does 2 T C d operations and writes T d numbers.
Table's gradient: reads T C states (and, for cosines, rows), and either adds T C d floats atomically
to N d zeros, or sorts the candidates by item and sums each run of equal items in one program.

At 2,048 tokens of 3 candidates, width 64 and 37,868 items in fp32: states' gradient 2.6 MB, table's
gradient 9.7 MB of zeros, 1.5 MB of additions and 2 MB read. Under an operation per byte, so the
floors are memory's (0.8 and 3.9 us at an H100's 3.35 TB/s; 0.5 and 2.8 us at an H200's 4.8), and at
this size launches bound both. At a million tokens gathers and additions go through L2, and
instructions come first: as compiled for sm_90, a thread takes 27 and 30 for each gathered element,
which is 0.25 and 0.2 ms. A sort takes some ten launches more, which is why atomic additions are the
default. For tiles see ``candidates``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.candidates._tiles import Tile, default_tile


@triton.jit(do_not_specialize=["n_tokens"])
def _states_gradient_kernel(
    upstream_ptr,
    states_ptr,
    table_ptr,
    items_ptr,
    by_dot_ptr,
    by_state_ptr,
    out_ptr,
    n_tokens,
    n_candidates,
    n_items,
    width,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tokens = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    token_mask = tokens < n_tokens
    inside = columns < width
    out_mask = token_mask[:, None] & inside[None, :]
    own = tl.load(by_state_ptr + tokens, mask=token_mask, other=0.0)[:, None]
    offsets = tokens[:, None] * width + columns[None, :]
    states = tl.load(states_ptr + offsets, mask=out_mask & (own != 0), other=0.0).to(tl.float32)
    total = own * states
    for start in range(0, n_candidates, BLOCK_C):
        candidates = start + tl.arange(0, BLOCK_C)
        mask = token_mask[:, None] & (candidates < n_candidates)[None, :]
        at = tokens[:, None] * n_candidates + candidates[None, :]
        items = tl.load(items_ptr + at, mask=mask, other=-1).to(tl.int64)
        by_dot = tl.load(by_dot_ptr + at, mask=mask, other=0.0)
        wanted = (items >= 0) & (items < n_items) & (by_dot != 0)
        rows = tl.load(
            table_ptr + items[:, :, None] * width + columns[None, None, :],
            mask=wanted[:, :, None] & inside[None, None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.sum(by_dot[:, :, None] * rows, axis=1)
    total *= tl.load(upstream_ptr)
    tl.store(out_ptr + offsets, total.to(out_ptr.dtype.element_ty), mask=out_mask)


@triton.jit(do_not_specialize=["n_places"])
def _add_to_table_kernel(
    upstream_ptr,
    states_ptr,
    table_ptr,
    items_ptr,
    by_dot_ptr,
    by_item_ptr,
    out_ptr,
    n_places,
    n_candidates,
    n_items,
    width,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    places = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (columns < width)[None, :]
    items = tl.load(items_ptr + places, mask=places < n_places, other=-1).to(tl.int64)
    in_table = (items >= 0) & (items < n_items)
    upstream = tl.load(upstream_ptr)
    by_dot = tl.load(by_dot_ptr + places, mask=in_table, other=0.0)[:, None] * upstream
    by_item = tl.load(by_item_ptr + places, mask=in_table, other=0.0)[:, None] * upstream
    offsets = items[:, None] * width + columns[None, :]
    tokens = (places // n_candidates)[:, None]
    states = tl.load(
        states_ptr + tokens * width + columns[None, :], mask=inside & (by_dot != 0), other=0.0
    ).to(tl.float32)
    rows = tl.load(table_ptr + offsets, mask=inside & (by_item != 0), other=0.0).to(tl.float32)
    tl.atomic_add(
        out_ptr + offsets,
        by_dot * states + by_item * rows,
        mask=inside & ((by_dot != 0) | (by_item != 0)),
        sem="relaxed",
    )


@triton.jit(do_not_specialize=["n_places"])
def _sum_runs_kernel(
    upstream_ptr,
    states_ptr,
    table_ptr,
    sorted_items_ptr,
    order_ptr,
    by_dot_ptr,
    by_item_ptr,
    out_ptr,
    n_places,
    n_candidates,
    n_items,
    width,
    COMPACT: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = columns < width
    item = tl.load(sorted_items_ptr + first).to(tl.int64)
    before = tl.load(sorted_items_ptr + first - 1, mask=first > 0, other=-1).to(tl.int64)
    starts_run = (item != before) & (item >= 0) & (item < n_items)
    total = tl.zeros([BLOCK_D], tl.float32)
    own = tl.zeros([BLOCK_P], tl.float32)
    start = first
    in_run = starts_run
    while in_run:
        places = start + tl.arange(0, BLOCK_P)
        same = tl.load(sorted_items_ptr + places, mask=places < n_places, other=-1) == item
        at = tl.load(order_ptr + places, mask=same, other=0)
        by_dot = tl.load(by_dot_ptr + at, mask=same, other=0.0)
        own += tl.load(by_item_ptr + at, mask=same, other=0.0)
        states = tl.load(
            states_ptr + (at // n_candidates)[:, None] * width + columns[None, :],
            mask=(by_dot != 0)[:, None] & inside[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.sum(by_dot[:, None] * states, axis=0)
        start += BLOCK_P
        in_run = tl.sum(same.to(tl.int32), axis=0) == BLOCK_P
    by_item = tl.sum(own, axis=0, keep_dims=True)
    row = tl.load(table_ptr + item * width + columns, mask=inside & (by_item != 0), other=0.0)
    total = (total + by_item * row.to(tl.float32)) * tl.load(upstream_ptr)
    if COMPACT:
        # Where no run starts the row is zeros: how many do is not known on the host.
        out_ptr += first * width
        mask = inside
    else:
        out_ptr += item * width
        # As a bound: interpreters of Triton 3.9 on refuse masks made of a scalar condition.
        mask = columns < tl.where(starts_run, width, 0)
    tl.store(out_ptr + columns, total.to(out_ptr.dtype.element_ty), mask=mask)


def states_gradient(
    upstream: torch.Tensor,
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    by_dot: torch.Tensor,
    by_state: torch.Tensor,
    tile: Tile | None = None,
) -> torch.Tensor:
    """[T, d], of the dtype of ``states``."""
    n_tokens, n_candidates = items.shape
    n_items, width = table.shape
    tile = tile or default_tile(n_candidates, width)
    out = torch.empty(states.shape, dtype=states.dtype, device=states.device)
    grid = triton.cdiv(n_tokens, tile.tokens), triton.cdiv(width, tile.columns)
    with torch.cuda.device_of(states):
        _states_gradient_kernel[grid](
            upstream,
            states.contiguous(),
            table.contiguous(),
            items.contiguous(),
            by_dot,
            by_state,
            out,
            n_tokens,
            n_candidates,
            n_items,
            width,
            BLOCK_T=tile.tokens,
            BLOCK_C=tile.candidates,
            BLOCK_D=tile.columns,
            num_warps=tile.warps,
        )
    return out


def table_gradient(
    upstream: torch.Tensor,
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    by_dot: torch.Tensor,
    by_item: torch.Tensor,
    tile: Tile | None = None,
) -> torch.Tensor:
    """[N, d], of the dtype of ``table``; each element's terms are added in float32, in any order
    unless torch is to be deterministic."""
    if torch.are_deterministic_algorithms_enabled():
        out = torch.zeros(table.shape, dtype=table.dtype, device=table.device)
        _sum_runs(upstream, states, table, items, by_dot, by_item, out, compact=False)
        return out
    n_items, width = table.shape
    tile = tile or default_tile(items.shape[1], width)
    block = tile.tokens * tile.candidates
    out = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
    grid = triton.cdiv(items.numel(), block), triton.cdiv(width, tile.columns)
    with torch.cuda.device_of(states):
        _add_to_table_kernel[grid](
            upstream,
            states.contiguous(),
            table.contiguous(),
            items.contiguous(),
            by_dot,
            by_item,
            out,
            items.numel(),
            items.shape[1],
            n_items,
            width,
            BLOCK_P=block,
            BLOCK_D=tile.columns,
            num_warps=tile.warps,
        )
    return out.to(table.dtype)


def sparse_table_gradient(
    upstream: torch.Tensor,
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    by_dot: torch.Tensor,
    by_item: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows of the table, int64 [T C], in order; what to add to each, [T C, d]).

    The first of a row's repetitions holds its sum, the others are zeros: how many rows differ would
    have to be read back from the device.
    """
    out = torch.empty(items.numel(), table.shape[1], dtype=table.dtype, device=table.device)
    sorted_items = _sum_runs(upstream, states, table, items, by_dot, by_item, out, compact=True)
    return sorted_items.clamp(0, len(table) - 1).long(), out


def _sum_runs(
    upstream: torch.Tensor,
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    by_dot: torch.Tensor,
    by_item: torch.Tensor,
    out: torch.Tensor,
    *,
    compact: bool,
) -> torch.Tensor:
    """Sums into the rows of ``out``, [N, d], or [T C, d] if compact; returns the sorted items.

    Equal items stay in the order of their places, which fixes the order of the sums.
    """
    sorted_items, order = torch.sort(items.flatten(), stable=True)
    n_items, width = table.shape
    block = default_tile(1, width).columns
    with torch.cuda.device_of(states):
        _sum_runs_kernel[(items.numel(), triton.cdiv(width, block))](
            upstream,
            states.contiguous(),
            table.contiguous(),
            sorted_items,
            order,
            by_dot,
            by_item,
            out,
            items.numel(),
            items.shape[1],
            n_items,
            width,
            COMPACT=compact,
            BLOCK_P=16,
            BLOCK_D=block,
            num_warps=1,
        )
    return sorted_items
