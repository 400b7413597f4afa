"""Softmax cross-entropy of the first candidate among a token's candidates and shared negatives.

A program has one token. Its candidates are those of ``sampled_softmax``; the products of its state
with the negatives, [T, K], come in a block whose values become exponentials e: the derivatives by
the products are ``factors_t e_ti``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.candidates._logit_block import (
    COLUMNS,
    WARPS,
    counted,
    exponentials,
    row_scale,
)
from pdrec_fast.kernels.triton.candidates._softmax_row import (
    find_logits,
    loss_of,
    weights_that_count,
    write_derivatives,
)
from pdrec_fast.kernels.triton.candidates._tiles import (
    number,
    own_multiple,
    similarity_arguments,
    tile_arguments,
    tile_of,
)
from pdrec_fast.operands import Candidates, LogitGradients, SharedNegatives, Similarity


@triton.jit(do_not_specialize=["n_tokens", "n_negatives"])
def _shared_softmax_kernel(
    states_ptr,
    table_ptr,
    items_ptr,
    weights_ptr,
    negatives_ptr,
    offsets_ptr,
    block_ptr,
    logits_ptr,
    squares_ptr,
    losses_ptr,
    factors_ptr,
    grad_dot_ptr,
    grad_item_ptr,
    grad_state_ptr,
    n_tokens,
    n_candidates,
    n_negatives,
    n_items,
    width,
    temperature,
    COSINE: tl.constexpr,
    LEARNED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tokens = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    token_mask = tokens < n_tokens
    weights = weights_that_count(weights_ptr, items_ptr, tokens, token_mask, n_candidates)
    counts = weights != 0
    temperature = number(temperature, LEARNED)
    positives, largest, sums, state_squares = find_logits(
        states_ptr,
        table_ptr,
        items_ptr,
        logits_ptr,
        squares_ptr,
        tokens,
        token_mask,
        counts,
        n_candidates,
        n_items,
        width,
        temperature,
        COSINE,
        BLOCK_T,
        BLOCK_C,
        BLOCK_D,
    )
    scale = row_scale(state_squares, temperature, COSINE)[:, None]
    own_items = tl.load(items_ptr + tokens * n_candidates, mask=token_mask, other=-1)[:, None]
    own_largest = largest
    for start in range(0, n_negatives, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        inside = columns < n_negatives
        at = tokens[:, None] * n_negatives + columns[None, :]
        mask = token_mask[:, None] & inside[None, :]
        products = tl.load(block_ptr + at, mask=mask, other=0.0).to(tl.float32)
        negatives = tl.load(negatives_ptr + columns, mask=inside, other=-1)[None, :]
        offsets = tl.load(offsets_ptr + columns, mask=inside, other=0.0)[None, :]
        left_out = (negatives == own_items) | ~mask | ~counts[:, None]
        logits = counted(products, scale, offsets, left_out)
        largest = tl.maximum(largest, tl.max(logits, axis=1))
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    sums = tl.where(sums != 0, sums * tl.exp(own_largest - shift), 0.0)
    slopes_times_logits = tl.zeros([BLOCK_T], tl.float32)
    for start in range(0, n_negatives, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        inside = columns < n_negatives
        at = tokens[:, None] * n_negatives + columns[None, :]
        mask = token_mask[:, None] & inside[None, :]
        products = tl.load(block_ptr + at, mask=mask, other=0.0).to(tl.float32)
        negatives = tl.load(negatives_ptr + columns, mask=inside, other=-1)[None, :]
        offsets = tl.load(offsets_ptr + columns, mask=inside, other=0.0)[None, :]
        left_out = (negatives == own_items) | ~mask | ~counts[:, None]
        values, times_logits = exponentials(products, scale, offsets, left_out, shift[:, None])
        sums += tl.sum(values, axis=1)
        slopes_times_logits += tl.sum(times_logits, axis=1)
        tl.store(block_ptr + at, values.to(block_ptr.dtype.element_ty), mask=mask)
    losses, slopes, sums = loss_of(positives, sums, shift)
    slopes *= weights
    shares = slopes / sums
    tl.store(losses_ptr + tokens, weights * losses, mask=token_mask)
    factors = shares[:, None] * scale
    tl.store(factors_ptr + tokens[:, None], factors, mask=token_mask[:, None])
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
        shares * slopes_times_logits,
        COSINE,
        BLOCK_C,
    )
    grad_state = own_multiple(slopes_times_logits, state_squares, COSINE)
    tl.store(grad_state_ptr + tokens, grad_state, mask=token_mask)


def shared_softmax(
    block: torch.Tensor,
    candidates: Candidates,
    shared: SharedNegatives,
    weights: torch.Tensor,
    similarity: Similarity,
    gradients: LogitGradients,
    outputs: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Write exponentials into the block, ``gradients`` and the outputs (losses, factors), each [T].

    A candidate outside the table is not read and makes the loss NaN, where its token counts.
    """
    losses, factors = outputs
    logits = torch.empty_like(gradients.grad_dot)
    tile = tile_of(candidates)._replace(tokens=1, warps=WARPS)
    with torch.cuda.device_of(block):
        _shared_softmax_kernel[(len(losses),)](
            weights_ptr=weights,
            negatives_ptr=shared.negatives,
            offsets_ptr=shared.offsets,
            block_ptr=block,
            logits_ptr=logits,
            squares_ptr=torch.empty_like(logits),
            losses_ptr=losses,
            factors_ptr=factors,
            grad_dot_ptr=gradients.grad_dot,
            grad_item_ptr=gradients.grad_item,
            grad_state_ptr=gradients.grad_state,
            n_negatives=len(shared.negatives),
            **similarity_arguments(similarity),
            **tile_arguments(candidates, tile),
            BLOCK_K=COLUMNS,
        )
