"""Softmax cross-entropy of the first candidate; gathered embeddings are never stored."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.candidates._softmax_row import (
    find_logits,
    loss_of,
    weights_that_count,
    write_derivatives,
)
from pdrec_fast.kernels.triton.candidates._tiles import (
    Tile,
    launch_loss,
    number,
    own_multiple,
)
from pdrec_fast.operands import Candidates, Similarity


@triton.jit(do_not_specialize=["n_tokens"])
def _softmax_kernel(
    states_ptr,
    table_ptr,
    items_ptr,
    weights_ptr,
    logits_ptr,
    squares_ptr,
    losses_ptr,
    grad_dot_ptr,
    grad_item_ptr,
    grad_state_ptr,
    n_tokens,
    n_candidates,
    n_items,
    width,
    temperature,
    COSINE: tl.constexpr,
    LEARNED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tokens = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    token_mask = tokens < n_tokens
    weights = weights_that_count(weights_ptr, items_ptr, tokens, token_mask, n_candidates)
    temperature = number(temperature, LEARNED)
    positives, largest, sums, state_squares = find_logits(
        states_ptr,
        table_ptr,
        items_ptr,
        logits_ptr,
        squares_ptr,
        tokens,
        token_mask,
        weights != 0,
        n_candidates,
        n_items,
        width,
        temperature,
        COSINE,
        BLOCK_T,
        BLOCK_C,
        BLOCK_D,
    )
    shift = tl.where(sums != 0, largest, 0.0)
    losses, slopes, sums = loss_of(positives, sums, shift)
    slopes *= weights
    tl.store(losses_ptr + tokens, weights * losses, mask=token_mask)
    slopes_times_logits = write_derivatives(
        logits_ptr,
        squares_ptr,
        grad_dot_ptr,
        grad_item_ptr,
        tokens,
        token_mask,
        n_candidates,
        slopes,
        sums,
        shift,
        state_squares,
        temperature,
        tl.zeros([BLOCK_T], tl.float32),
        COSINE,
        BLOCK_C,
    )
    grad_state = own_multiple(slopes_times_logits, state_squares, COSINE)
    tl.store(grad_state_ptr + tokens, grad_state, mask=token_mask)


def sampled_softmax(
    candidates: Candidates,
    weights: torch.Tensor,
    similarity: Similarity,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, ...]:
    """(loss, its ``LogitGradients``), float32.

    An item outside the table is not read and makes the loss NaN, where its token counts.
    """
    logits = torch.empty(candidates.items.shape, dtype=torch.float32, device=weights.device)
    scratch = {"logits_ptr": logits, "squares_ptr": torch.empty_like(logits)}
    return launch_loss(_softmax_kernel, candidates, weights, similarity, tile, **scratch)
