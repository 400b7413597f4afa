"""What softmax losses do with the candidates of their tokens.

A token's softmax needs all its logits, which may be more than a tile: they go to memory with the
squared norms and are read back once their sum is known.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pdrec_fast.kernels.triton.candidates._tiles import (
    logit_scale,
    own_multiple,
    products,
    softplus,
    token_places,
)


@triton.jit
def weights_that_count(weights_ptr, items_ptr, tokens, token_mask, n_candidates):
    """The tokens' weights, 0 without a positive."""
    first_items = tl.load(items_ptr + tokens * n_candidates, mask=token_mask, other=-1)
    return tl.load(weights_ptr + tokens, mask=first_items != -1, other=0.0).to(tl.float32)


@triton.jit
def find_logits(
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
    COSINE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """(logits of the positives [t]; the largest of the negatives', and the sum of the exponentials
    relative to it, or to 0 where it is -inf; squares of the states' norms)."""
    positives = tl.zeros([BLOCK_T], tl.float32)
    largest = tl.full([BLOCK_T], float("-inf"), tl.float32)
    sums = tl.zeros([BLOCK_T], tl.float32)
    state_squares = tl.zeros([BLOCK_T], tl.float32)
    for start in range(0, n_candidates, BLOCK_C):
        columns, mask, at = token_places(start, tokens, token_mask, n_candidates, BLOCK_C)
        items = tl.load(items_ptr + at, mask=mask & counts[:, None], other=-1).to(tl.int64)
        in_table = (items >= 0) & (items < n_items)
        dots, state_squares, item_squares = products(
            states_ptr, table_ptr, tokens, token_mask, items, in_table, width, COSINE, BLOCK_D
        )
        logits = dots * logit_scale(state_squares, item_squares, temperature, COSINE)
        # Nothing outside the table is read; that it was asked for shows in the loss.
        refused = tl.where(items == -1, float("-inf"), float("nan"))
        logits = tl.where(in_table, logits, refused)
        tl.store(logits_ptr + at, logits, mask=mask)
        tl.store(squares_ptr + at, item_squares, mask=mask)
        is_positive = (columns == 0)[None, :]
        is_present = items != -1
        positives += tl.sum(tl.where(is_positive & is_present, logits, 0.0), axis=1)
        negatives = tl.where(is_positive, float("-inf"), logits)
        before = largest
        largest = tl.maximum(before, tl.max(negatives, axis=1))
        shift = tl.where(largest == float("-inf"), 0.0, largest)
        sums *= tl.exp(before - shift)
        sums += tl.sum(tl.exp(negatives - shift[:, None]), axis=1)
    # Whatever a state that does not count holds, its derivatives are zeros.
    return positives, largest, sums, tl.where(counts, state_squares, 1.0)


@triton.jit
def loss_of(positives, sums, shift):
    """(loss, its slope by the negatives' excess, the sums, 1 where there are no negatives).

    -log softmax of the positive is the softplus of how far the negatives together, ``sums`` times
    exp(shift), exceed it: so a small loss keeps its digits.
    """
    has_negatives = sums != 0
    sums = tl.where(has_negatives, sums, 1.0)
    excess = tl.where(has_negatives, (shift - positives) + tl.log(sums), float("-inf"))
    losses, slopes = softplus(excess)
    return losses, slopes, sums


@triton.jit
def write_derivatives(
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
    slopes_times_logits,
    COSINE: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Write those by the products and the items' squares; returns ``slopes_times_logits`` with what
    the candidates add to it."""
    tl.debug_barrier()  # what a thread reads back another one may have written
    for start in range(0, n_candidates, BLOCK_C):
        columns, mask, at = token_places(start, tokens, token_mask, n_candidates, BLOCK_C)
        logits = tl.load(logits_ptr + at, mask=mask, other=float("-inf"))
        item_squares = tl.load(squares_ptr + at, mask=mask, other=0.0)
        is_positive = (columns == 0)[None, :]
        negatives = tl.where(is_positive, float("-inf"), logits)
        grad_negative = (slopes / sums)[:, None] * tl.exp(negatives - shift[:, None])
        grad_logit = tl.where(is_positive, -slopes[:, None], grad_negative)
        product = grad_logit * tl.where(logits == float("-inf"), 0.0, logits)
        scale = logit_scale(state_squares, item_squares, temperature, COSINE)
        tl.store(grad_dot_ptr + at, grad_logit * scale, mask=mask)
        tl.store(grad_item_ptr + at, own_multiple(product, item_squares, COSINE), mask=mask)
        slopes_times_logits += tl.sum(product, axis=1)
    return slopes_times_logits
