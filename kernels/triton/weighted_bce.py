"""Weighted binary cross-entropy of candidate items; gathered embeddings are never stored.

Forward: one pass over the tokens reads their states and T C rows of the table, does 2 T C d
operations (4 T C d for cosines) and writes 8 bytes per candidate and 8 per token, from which the
gradients follow without the logits. Losses are written per token and summed after: no atomics.
States' gradient: reads the T C rows again, 2 T C d operations, writes T d numbers.
Table's gradient: reads T C states (and, for cosines, rows), and either adds T C d floats atomically
to N d zeros, or sorts the candidates by item and sums each run of equal items in one program.

At 2,048 tokens of 3 candidates, width 64 and 37,868 items in fp32: forward 2.1 MB and 1.6 MFLOP,
states' gradient 2.6 MB, table's gradient 9.7 MB of zeros, 1.5 MB of additions and 2 MB read. Under
an operation per byte, so the floors are memory's (0.6, 0.8 and 3.9 us at an H100's 3.35 TB/s; 0.4,
0.5 and 2.8 us at an H200's 4.8), and at this size launches bound them all. At a million tokens
gathers and additions go through L2, and instructions come first: as compiled for sm_90, a thread
takes 52, 27 and 30 for each gathered element, which is 0.5, 0.25 and 0.2 ms. A sort takes some ten
launches more, which is why atomic additions are the default. Tensor cores (990 TFLOP/s in bf16)
have nothing to do, as each state meets rows of its own. For tiles see ``candidates``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.candidates import (
    NORM_EPS,
    Tile,
    default_tile,
    logit_scale,
    products,
)


@triton.jit
def _log1p_of_fraction(x):
    """ln(1 + x) for x in [0, 1], as 2 artanh(x / (2 + x)): keeps the digits of a small x."""
    s = x / (2.0 + x)
    z = s * s
    q = 0.14012232 * z + 0.1399957
    q = q * z + 0.2001085
    q = q * z + 0.33333206
    return 2.0 * (s + s * z * q)


@triton.jit
def _softplus(x):
    """(softplus(x), its derivative); NaN for NaN."""
    decay = tl.exp(-tl.abs(x))
    loss = tl.where(x < 0, 0.0, x) + _log1p_of_fraction(decay)
    return loss, tl.where(x < 0, decay, 1.0) / (1.0 + decay)


@triton.jit
def _own_multiple(product, squares, COSINE: tl.constexpr):
    """The multiple of its own vector in the gradient of a vector that cosines normalise.

    ``product`` is the sum of its logits times their derivatives. A norm below eps counts as
    constant.
    """
    if COSINE:
        return -product / tl.where(tl.sqrt_rn(squares) < NORM_EPS, float("inf"), squares)
    else:
        return tl.zeros(product.shape, tl.float32)


@triton.jit(do_not_specialize=["n_tokens"])
def _losses_kernel(
    states_ptr,
    table_ptr,
    items_ptr,
    weights_ptr,
    losses_ptr,
    by_dot_ptr,
    by_item_ptr,
    by_state_ptr,
    n_tokens,
    n_candidates,
    n_items,
    width,
    n_positives,
    temperature,
    COSINE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tokens = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    token_mask = tokens < n_tokens
    losses = tl.zeros([BLOCK_T], tl.float32)
    slopes_times_logits = tl.zeros([BLOCK_T], tl.float32)
    state_squares = tl.zeros([BLOCK_T], tl.float32)
    for start in range(0, n_candidates, BLOCK_C):
        columns = start + tl.arange(0, BLOCK_C)
        mask = token_mask[:, None] & (columns < n_candidates)[None, :]
        at = tokens[:, None] * n_candidates + columns[None, :]
        items = tl.load(items_ptr + at, mask=mask, other=-1).to(tl.int64)
        present = items != -1
        in_table = (items >= 0) & (items < n_items)
        weights = tl.load(weights_ptr + at, mask=present, other=0.0).to(tl.float32)
        wanted = in_table & (weights != 0)
        # Nothing outside the table is read; that it was asked for shows in the loss.
        weights = tl.where(in_table == present, weights, float("nan"))
        dots, state_squares, item_squares = products(
            states_ptr, table_ptr, tokens, token_mask, items, wanted, width, COSINE, BLOCK_D
        )
        scale = logit_scale(state_squares, item_squares, temperature, COSINE)
        logits = dots * scale
        signs = tl.where(columns < n_positives, -1.0, 1.0)[None, :]
        losses_of_one, slopes = _softplus(signs * logits)
        by_logit = signs * (weights * slopes)
        by_item = _own_multiple(by_logit * logits, item_squares, COSINE)
        tl.store(by_dot_ptr + at, by_logit * scale, mask=mask)
        tl.store(by_item_ptr + at, by_item, mask=mask)
        losses += tl.sum(weights * losses_of_one, axis=1)
        slopes_times_logits += tl.sum(by_logit * logits, axis=1)
    by_state = _own_multiple(slopes_times_logits, state_squares, COSINE)
    tl.store(losses_ptr + tokens, losses, mask=token_mask)
    tl.store(by_state_ptr + tokens, by_state, mask=token_mask)


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


def weighted_bce(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    weights: torch.Tensor,
    n_positives: int,
    cosine: bool,
    temperature: float,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, by_dot [T, C], by_item [T, C], by_state [T]), float32.

    An item outside the table is not read and makes the loss NaN.
    """
    n_tokens, n_candidates = items.shape
    n_items, width = table.shape
    tile = tile or default_tile(n_candidates, width)
    losses = torch.empty(n_tokens, dtype=torch.float32, device=states.device)
    by_state = torch.empty_like(losses)
    by_dot = torch.empty(items.shape, dtype=torch.float32, device=states.device)
    by_item = torch.empty_like(by_dot)
    with torch.cuda.device_of(states):
        _losses_kernel[(triton.cdiv(n_tokens, tile.tokens),)](
            states.contiguous(),
            table.contiguous(),
            items.contiguous(),
            weights.contiguous(),
            losses,
            by_dot,
            by_item,
            by_state,
            n_tokens,
            n_candidates,
            n_items,
            width,
            n_positives,
            temperature,
            COSINE=cosine,
            BLOCK_T=tile.tokens,
            BLOCK_C=tile.candidates,
            BLOCK_D=tile.columns,
            num_warps=tile.warps,
        )
    return losses.sum(), by_dot, by_item, by_state


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
