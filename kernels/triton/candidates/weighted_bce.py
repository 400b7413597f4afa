"""Weighted binary cross-entropy of candidate items; gathered embeddings are never stored.

One pass over the tokens. Losses are written per token and summed after: no atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.candidates._tiles import (
    Tile,
    launch_loss,
    logit_scale,
    number,
    own_multiple,
    products,
    softplus,
    token_places,
)
from pdrec_fast.operands import Candidates, Similarity


@triton.jit(do_not_specialize=["n_tokens"])
def _bce_kernel(
    states_ptr,
    table_ptr,
    items_ptr,
    weights_ptr,
    losses_ptr,
    grad_dot_ptr,
    grad_item_ptr,
    grad_state_ptr,
    n_tokens,
    n_candidates,
    n_items,
    width,
    n_positives,
    temperature,
    COSINE: tl.constexpr,
    LEARNED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tokens = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    token_mask = tokens < n_tokens
    losses = tl.zeros([BLOCK_T], tl.float32)
    slopes_times_logits = tl.zeros([BLOCK_T], tl.float32)
    state_squares = tl.zeros([BLOCK_T], tl.float32)
    temperature = number(temperature, LEARNED)
    for start in range(0, n_candidates, BLOCK_C):
        columns, mask, at = token_places(start, tokens, token_mask, n_candidates, BLOCK_C)
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
        grad_logit = signs * (weights * slopes)
        grad_item = own_multiple(grad_logit * logits, item_squares, COSINE)
        tl.store(grad_dot_ptr + at, grad_logit * scale, mask=mask)
        tl.store(grad_item_ptr + at, grad_item, mask=mask)
        losses += tl.sum(weights * losses_of_one, axis=1)
        slopes_times_logits += tl.sum(grad_logit * logits, axis=1)
    grad_state = own_multiple(slopes_times_logits, state_squares, COSINE)
    tl.store(losses_ptr + tokens, losses, mask=token_mask)
    tl.store(grad_state_ptr + tokens, grad_state, mask=token_mask)


def weighted_bce(
    candidates: Candidates,
    weights: torch.Tensor,
    n_positives: int,
    similarity: Similarity,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, ...]:
    """(loss, its ``LogitGradients``), float32.

    An item outside the table is not read and makes the loss NaN.
    """
    given = candidates, weights, similarity, tile
    return launch_loss(_bce_kernel, *given, n_positives=n_positives)
