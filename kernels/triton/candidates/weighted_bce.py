"""Weighted binary cross-entropy of candidate items; gathered embeddings are never stored.

One pass over the tokens reads their states and T C rows of the table, does 2 T C d operations
(4 T C d for cosines) and writes 8 bytes per candidate and 8 per token, from which the gradients
follow without the logits (``candidate_gradients``). Losses are written per token and summed after:
no atomics.

At 2,048 tokens of 3 candidates, width 64 and 37,868 items in fp32 that is 2.1 MB and 1.6 MFLOP.
Under an operation per byte, so the floor is memory's (0.6 us at an H100's 3.35 TB/s, 0.4 at an
H200's 4.8), and at this size launches bound it. At a million tokens gathers go through L2, and
instructions come first: as compiled for sm_90, a thread takes 52 for each gathered element, which
is 0.5 ms. Tensor cores (990 TFLOP/s in bf16) have nothing to do, as each state meets rows of its
own. For tiles see ``candidates``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.candidates._tiles import (
    Tile,
    default_tile,
    logit_scale,
    own_multiple,
    products,
    softplus,
)


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
        losses_of_one, slopes = softplus(signs * logits)
        by_logit = signs * (weights * slopes)
        by_item = own_multiple(by_logit * logits, item_squares, COSINE)
        tl.store(by_dot_ptr + at, by_logit * scale, mask=mask)
        tl.store(by_item_ptr + at, by_item, mask=mask)
        losses += tl.sum(weights * losses_of_one, axis=1)
        slopes_times_logits += tl.sum(by_logit * logits, axis=1)
    by_state = own_multiple(slopes_times_logits, state_squares, COSINE)
    tl.store(losses_ptr + tokens, losses, mask=token_mask)
    tl.store(by_state_ptr + tokens, by_state, mask=token_mask)


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
