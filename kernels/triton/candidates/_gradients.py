"""Gradients of a loss of candidates' logits, from its ``LogitGradients``.

The table's either adds each candidate's part atomically to zeros, or sorts the candidates by item
and sums each run of equal items in one program.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.candidates._tiles import (
    Tile,
    arguments,
    default_tile,
    tile_arguments,
    tile_of,
    token_places,
)
from pdrec_fast.operands import Candidates, LogitGradients


@triton.jit(do_not_specialize=["n_tokens"])
def _states_gradient_kernel(
    grad_loss_ptr,
    states_ptr,
    table_ptr,
    items_ptr,
    grad_dot_ptr,
    grad_state_ptr,
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
    own = tl.load(grad_state_ptr + tokens, mask=token_mask, other=0.0)[:, None]
    offsets = tokens[:, None] * width + columns[None, :]
    states = tl.load(states_ptr + offsets, mask=out_mask & (own != 0), other=0.0).to(tl.float32)
    total = own * states
    for start in range(0, n_candidates, BLOCK_C):
        _, mask, at = token_places(start, tokens, token_mask, n_candidates, BLOCK_C)
        items = tl.load(items_ptr + at, mask=mask, other=-1).to(tl.int64)
        grad_dot = tl.load(grad_dot_ptr + at, mask=mask, other=0.0)
        wanted = (items >= 0) & (items < n_items) & (grad_dot != 0)
        rows = tl.load(
            table_ptr + items[:, :, None] * width + columns[None, None, :],
            mask=wanted[:, :, None] & inside[None, None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.sum(grad_dot[:, :, None] * rows, axis=1)
    total *= tl.load(grad_loss_ptr)
    tl.store(out_ptr + offsets, total.to(out_ptr.dtype.element_ty), mask=out_mask)


@triton.jit(do_not_specialize=["n_places"])
def _add_to_table_kernel(
    grad_loss_ptr,
    states_ptr,
    table_ptr,
    items_ptr,
    grad_dot_ptr,
    grad_item_ptr,
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
    grad_loss = tl.load(grad_loss_ptr)
    grad_dot = tl.load(grad_dot_ptr + places, mask=in_table, other=0.0)[:, None] * grad_loss
    grad_item = tl.load(grad_item_ptr + places, mask=in_table, other=0.0)[:, None] * grad_loss
    offsets = items[:, None] * width + columns[None, :]
    tokens = (places // n_candidates)[:, None]
    states = tl.load(
        states_ptr + tokens * width + columns[None, :], mask=inside & (grad_dot != 0), other=0.0
    ).to(tl.float32)
    rows = tl.load(table_ptr + offsets, mask=inside & (grad_item != 0), other=0.0).to(tl.float32)
    tl.atomic_add(
        out_ptr + offsets,
        grad_dot * states + grad_item * rows,
        mask=inside & ((grad_dot != 0) | (grad_item != 0)),
        sem="relaxed",
    )


@triton.jit(do_not_specialize=["n_places"])
def _sum_runs_kernel(
    grad_loss_ptr,
    states_ptr,
    table_ptr,
    sorted_items_ptr,
    order_ptr,
    grad_dot_ptr,
    grad_item_ptr,
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
        grad_dot = tl.load(grad_dot_ptr + at, mask=same, other=0.0)
        own += tl.load(grad_item_ptr + at, mask=same, other=0.0)
        states = tl.load(
            states_ptr + (at // n_candidates)[:, None] * width + columns[None, :],
            mask=(grad_dot != 0)[:, None] & inside[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.sum(grad_dot[:, None] * states, axis=0)
        start += BLOCK_P
        in_run = tl.sum(same.to(tl.int32), axis=0) == BLOCK_P
    grad_item = tl.sum(own, axis=0, keep_dims=True)
    row = tl.load(table_ptr + item * width + columns, mask=inside & (grad_item != 0), other=0.0)
    total = (total + grad_item * row.to(tl.float32)) * tl.load(grad_loss_ptr)
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
    grad_loss: torch.Tensor,
    candidates: Candidates,
    gradients: LogitGradients,
    tile: Tile | None = None,
) -> torch.Tensor:
    """[T, d], of the dtype of the states."""
    states = candidates.states
    tile = tile or tile_of(candidates)
    out = torch.empty(states.shape, dtype=states.dtype, device=states.device)
    grid = triton.cdiv(len(states), tile.tokens), triton.cdiv(states.shape[1], tile.columns)
    with torch.cuda.device_of(states):
        _states_gradient_kernel[grid](
            grad_loss_ptr=grad_loss,
            grad_dot_ptr=gradients.grad_dot,
            grad_state_ptr=gradients.grad_state,
            out_ptr=out,
            **tile_arguments(candidates, tile),
        )
    return out


def table_gradient(
    grad_loss: torch.Tensor,
    candidates: Candidates,
    gradients: LogitGradients,
    tile: Tile | None = None,
) -> torch.Tensor:
    """[N, d], of the dtype of the table; each element's terms are added in float32, in any order
    unless torch is to be deterministic."""
    _, table, items = candidates
    if torch.are_deterministic_algorithms_enabled():
        out = torch.zeros(table.shape, dtype=table.dtype, device=table.device)
        _sum_runs(grad_loss, candidates, gradients, out, compact=False)
        return out
    tile = tile or tile_of(candidates)
    block = tile.tokens * tile.candidates
    out = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
    grid = triton.cdiv(items.numel(), block), triton.cdiv(table.shape[1], tile.columns)
    with torch.cuda.device_of(table):
        _add_to_table_kernel[grid](
            items_ptr=items.contiguous(),
            **_table_arguments(grad_loss, candidates, gradients, out),
            BLOCK_P=block,
            BLOCK_D=tile.columns,
            num_warps=tile.warps,
        )
    return out.to(table.dtype)


def table_gradient_rows(
    grad_loss: torch.Tensor, candidates: Candidates, gradients: LogitGradients
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows of the table, int64 [T C], in order; what to add to each, [T C, d]).

    The first of a row's repetitions holds its sum, the others are zeros: how many rows differ would
    have to be read back from the device.
    """
    _, table, items = candidates
    out = torch.empty(items.numel(), table.shape[1], dtype=table.dtype, device=table.device)
    sorted_items = _sum_runs(grad_loss, candidates, gradients, out, compact=True)
    return sorted_items.clamp(0, len(table) - 1).long(), out


def _sum_runs(
    grad_loss: torch.Tensor,
    candidates: Candidates,
    gradients: LogitGradients,
    out: torch.Tensor,
    *,
    compact: bool,
) -> torch.Tensor:
    """Sums into the rows of ``out``, [N, d], or [T C, d] if compact; returns the sorted items.

    Equal items stay in the order of their places, which fixes the order of the sums.
    """
    sorted_items, order = torch.sort(candidates.items.flatten(), stable=True)
    width = candidates.table.shape[1]
    block = default_tile(1, width).columns
    with torch.cuda.device_of(out):
        _sum_runs_kernel[(len(order), triton.cdiv(width, block))](
            sorted_items_ptr=sorted_items,
            order_ptr=order,
            **_table_arguments(grad_loss, candidates, gradients, out),
            COMPACT=compact,
            BLOCK_P=16,
            BLOCK_D=block,
            num_warps=1,
        )
    return sorted_items


def _table_arguments(
    grad_loss: torch.Tensor,
    candidates: Candidates,
    gradients: LogitGradients,
    out: torch.Tensor,
) -> dict[str, Any]:
    """Those that both kernels of the table's gradient take by name."""
    return {
        "grad_loss_ptr": grad_loss,
        "grad_dot_ptr": gradients.grad_dot,
        "grad_item_ptr": gradients.grad_item,
        "out_ptr": out,
        "n_places": candidates.items.numel(),
        **arguments(candidates),
    }
