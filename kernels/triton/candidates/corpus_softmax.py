"""Softmax cross-entropy of each token's positive among all items, whose logits come in blocks.

A program has one token. Totals [4, T] go from block to block: the negatives' largest logit, the sum
of their exponentials relative to it, of these times the logits, and the positive's logit. Once they
are complete the values of a block become e: the derivatives by the products are ``factors_t e_ti``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
from pdrec_fast.kernels.triton.candidates._softmax_row import loss_of
from pdrec_fast.kernels.triton.candidates._tiles import (
    number,
    own_multiple,
    similarity_arguments,
)
from pdrec_fast.operands import Similarity


class CorpusRows(NamedTuple):
    """What the kernels take of T tokens.

    Attributes:
        squares: float32 [T], of the states' norms.
        positives: int64 or int32 [T].
        weights: float32 [T].
        totals: float32 [T, 4].
    """

    squares: torch.Tensor
    positives: torch.Tensor
    weights: torch.Tensor
    totals: torch.Tensor

    def of(self, tokens: slice) -> CorpusRows:
        """Those of some tokens."""
        return CorpusRows(*(tensor[tokens] for tensor in self))


@triton.jit
def _write_exponentials(
    block_ptr,
    token,
    n_columns,
    first_item,
    positive,
    counts,
    scale,
    shift,
    BLOCK_K: tl.constexpr,
):
    """(their sum, [1]; that of them times the logits); 0 in place of the positive."""
    sums = tl.zeros([1], tl.float32)
    slopes_times_logits = tl.zeros([1], tl.float32)
    for start in range(0, n_columns, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        mask = columns < n_columns
        at = token * n_columns + columns
        products = tl.load(block_ptr + at, mask=mask, other=0.0).to(tl.float32)
        left_out = (first_item + columns == positive) | ~mask | ~counts
        values, times_logits = exponentials(products, scale, 0.0, left_out, shift)
        sums += tl.sum(values, axis=0)
        slopes_times_logits += tl.sum(times_logits, axis=0)
        tl.store(block_ptr + at, values.to(block_ptr.dtype.element_ty), mask=mask)
    return sums, slopes_times_logits


@triton.jit
def _put_positive(block_ptr, token, n_columns, first_item, positive, counts, value):
    """The derivative by the positive's logit is minus the sum of all others."""
    tl.debug_barrier()  # another thread may have written this place
    column = positive - first_item
    is_here = (column >= 0) & (column < n_columns) & counts
    values = (-value).to(block_ptr.dtype.element_ty)
    tl.store(block_ptr + token * n_columns + column, values, mask=is_here)


@triton.jit(do_not_specialize=["n_columns", "first_item"])
def _corpus_softmax_kernel(
    block_ptr,
    squares_ptr,
    positives_ptr,
    weights_ptr,
    totals_ptr,
    losses_ptr,
    factors_ptr,
    grad_state_ptr,
    n_columns,
    first_item,
    n_items,
    temperature,
    COSINE: tl.constexpr,
    LEARNED: tl.constexpr,
    IS_FIRST: tl.constexpr,
    IS_LAST: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    one = tl.zeros([1], tl.int64)
    positive = tl.load(positives_ptr + token + one).to(tl.int64)
    weight = tl.load(weights_ptr + token + one)
    weight = tl.where(positive == -1, 0.0, weight)
    counts = weight != 0
    square = tl.load(squares_ptr + token + one)
    scale = row_scale(square, number(temperature, LEARNED), COSINE)
    if IS_FIRST:
        largest_before = tl.full([1], float("-inf"), tl.float32)
        sums_before = tl.zeros([1], tl.float32)
        products_before = tl.zeros([1], tl.float32)
        # A positive outside the table is never met.
        in_table = (positive >= 0) & (positive < n_items)
        own = tl.where(in_table, 0.0, float("nan"))
    else:
        largest_before = tl.load(totals_ptr + token * 4 + one)
        sums_before = tl.load(totals_ptr + token * 4 + 1 + one)
        products_before = tl.load(totals_ptr + token * 4 + 2 + one)
        own = tl.load(totals_ptr + token * 4 + 3 + one)
    column = positive - first_item
    is_here = (column >= 0) & (column < n_columns)
    at_positive = tl.load(block_ptr + token * n_columns + column, mask=is_here, other=0.0)
    own += at_positive.to(tl.float32) * scale
    largest = largest_before
    for start in range(0, n_columns, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        mask = columns < n_columns
        at = token * n_columns + columns
        products = tl.load(block_ptr + at, mask=mask, other=0.0).to(tl.float32)
        left_out = (first_item + columns == positive) | ~mask | ~counts
        logits = counted(products, scale, 0.0, left_out)
        largest = tl.maximum(largest, tl.max(logits, axis=0))
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    tl.debug_barrier()  # the positive's place was read, and is written now
    sums, slopes_times_logits = _write_exponentials(
        block_ptr, token, n_columns, first_item, positive, counts, scale, shift, BLOCK_K
    )
    decay = tl.where(sums_before == 0, 0.0, tl.exp(largest_before - shift))
    sums += tl.where(sums_before == 0, 0.0, sums_before * decay)
    slopes_times_logits += products_before * decay
    if IS_LAST:
        loss, slope, safe_sums = loss_of(own, sums, shift)
        slope = tl.where(counts, slope * weight, 0.0)
        share = slope / safe_sums
        product = share * slopes_times_logits - tl.where(slope != 0, slope * own, 0.0)
        tl.store(losses_ptr + token + one, tl.where(counts, loss * weight, 0.0))
        tl.store(factors_ptr + token + one, tl.where(counts, share * scale, 0.0))
        grad_state = tl.where(counts, own_multiple(product, square, COSINE), 0.0)
        tl.store(grad_state_ptr + token + one, grad_state)
    if IS_FIRST and IS_LAST:
        _put_positive(block_ptr, token, n_columns, first_item, positive, counts, sums)
    else:
        tl.store(totals_ptr + token * 4 + one, largest)
        tl.store(totals_ptr + token * 4 + 1 + one, sums)
        tl.store(totals_ptr + token * 4 + 2 + one, slopes_times_logits)
        tl.store(totals_ptr + token * 4 + 3 + one, own)


@triton.jit(do_not_specialize=["n_columns", "first_item"])
def _corpus_derivatives_kernel(
    block_ptr,
    squares_ptr,
    positives_ptr,
    weights_ptr,
    totals_ptr,
    n_columns,
    first_item,
    temperature,
    COSINE: tl.constexpr,
    LEARNED: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    one = tl.zeros([1], tl.int64)
    positive = tl.load(positives_ptr + token + one).to(tl.int64)
    weight = tl.load(weights_ptr + token + one)
    counts = (weight != 0) & (positive != -1)
    scale = row_scale(tl.load(squares_ptr + token + one), number(temperature, LEARNED), COSINE)
    largest = tl.load(totals_ptr + token * 4 + one)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    _write_exponentials(
        block_ptr, token, n_columns, first_item, positive, counts, scale, shift, BLOCK_K
    )
    total = tl.load(totals_ptr + token * 4 + 1 + one)
    _put_positive(block_ptr, token, n_columns, first_item, positive, counts, total)


def corpus_softmax(
    block: torch.Tensor,
    items: slice,
    n_items: int,
    rows: CorpusRows,
    similarity: Similarity,
    outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    """Take a block of products with ``items`` into ``rows.totals``, and into the outputs (losses,
    factors, ``grad_state``), each [T], where it is the last.

    Leaves derivatives in a block of all items, else nothing of use.
    """
    losses, factors, grad_state = outputs
    with torch.cuda.device_of(block):
        _corpus_softmax_kernel[(len(block),)](
            losses_ptr=losses,
            factors_ptr=factors,
            grad_state_ptr=grad_state,
            n_items=n_items,
            IS_FIRST=items.start == 0,
            IS_LAST=items.stop == n_items,
            **_arguments(block, items, rows, similarity),
        )


def corpus_derivatives(
    block: torch.Tensor, items: slice, rows: CorpusRows, similarity: Similarity
) -> None:
    """Derivatives in place of a block's products, by totals that are complete."""
    with torch.cuda.device_of(block):
        _corpus_derivatives_kernel[(len(block),)](**_arguments(block, items, rows, similarity))


def _arguments(
    block: torch.Tensor, items: slice, rows: CorpusRows, similarity: Similarity
) -> dict[str, Any]:
    return {
        "block_ptr": block,
        "squares_ptr": rows.squares,
        "positives_ptr": rows.positives,
        "weights_ptr": rows.weights,
        "totals_ptr": rows.totals,
        "n_columns": block.shape[1],
        "first_item": items.start,
        **similarity_arguments(similarity),
        "BLOCK_K": COLUMNS,
        "num_warps": WARPS,
    }
