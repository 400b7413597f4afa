"""Causal attention within packed sequences and its gradient; no score matrix in device memory.

With T tokens, n heads of width e, s bytes an element and L the length that a token's sequence has
on average, forward moves 4 s T n e + 8 T n bytes for 2 T n e L operations in products, backward
7 s T n e + 24 T n bytes for 7 to 9 T n e L. Memory is the floor, and latency and instructions come
before it (docs/performance.md). Hence:

- One program a (block of queries or of keys, head), found as ``_sequences`` says: thousands of
  independent ones.
- Tiles of 16 x 16, the smallest that matrix units take: the mean sequence has 14 tokens, and most
  of a larger tile would be masked. Square tiles leave one tile on the diagonal and none above it.
- Two warps and two stages, so that seven or more programs share a multiprocessor. Exact float32
  products are unrolled: with four times the elements a thread, registers spill.
- A row of dropout's words begins a block of four, so that tiles of whole blocks draw no word twice.
- The gradients take two passes, of queries and of keys, for an order of sums that never changes;
  adding one of them atomically would save reads, and with them the equal bits of two runs.

The block is not tuned at run time: it sets the order of sums, and another choice in another run
would end in another model. ``CONFIGS`` is for benchmarks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.packed._attention import (
    adjacent,
    dot,
    exp,
    kept_weights,
    load_tile,
    store_tile,
    strides_of,
)
from pdrec_fast.kernels.triton.packed._sequences import (
    NOT_SPECIALIZED,
    locate,
    n_slots,
    search,
    word_arguments,
)
from pdrec_fast.operands import PackedDropout

CONFIGS = ((16, 2), (16, 1), (32, 4), (32, 8))
"""(block, num_warps) worth trying; the first is the default."""


_UNUSED = dict.fromkeys(("out", "grad_out", "mean", "grad_q", "grad_k", "grad_v"))
"""The kernel's tensors that one pass or another does without."""


def packed_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    words: PackedDropout,
    *,
    block: int = CONFIGS[0][0],
    num_warps: int = CONFIGS[0][1],
    precision: str = "ieee",
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out [T, heads, e], softmax float32 [2, T, heads]) as ``ops.packed_attention`` defines them.

    Args:
        precision: of float32 products, ``tl.dot``'s ``input_precision``.
    """
    out = q.new_empty(q.shape)
    softmax = q.new_empty((2, *q.shape[:2]), dtype=torch.float32)
    inputs = adjacent(q=q, k=k, v=v)
    _launch("forward", inputs | {"out": out}, softmax, words, block, num_warps, precision)
    return out, softmax


def packed_attention_backward(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax: torch.Tensor,
    words: PackedDropout,
    *,
    block: int = CONFIGS[0][0],
    num_warps: int = CONFIGS[0][1],
    precision: str = "ieee",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k and v."""
    gradients = {name: q.new_empty(q.shape) for name in ("grad_q", "grad_k", "grad_v")}
    tensors = adjacent(q=q, k=k, v=v, grad_out=grad_out)
    tensors |= {"mean": torch.empty_like(softmax[0]), **gradients}
    for step in ("queries", "keys"):
        _launch(step, tensors, softmax, words, block, num_warps, precision)
    return gradients["grad_q"], gradients["grad_k"], gradients["grad_v"]


def _launch(
    step: str,
    tensors: dict[str, torch.Tensor],
    softmax: torch.Tensor,
    words: PackedDropout,
    block: int,
    num_warps: int,
    precision: str,
) -> None:
    q, n_sequences = tensors["q"], len(words.users)
    if not q.numel():
        return
    _, n_heads, width = q.shape
    with torch.cuda.device_of(q):
        _attention[(n_slots(len(q), n_sequences, block), n_heads)](
            **(_UNUSED | tensors),
            maximum=softmax[0],
            inverse=softmax[1],
            indptr=words.indptr,
            users=words.users,
            **strides_of(tensors),
            n_sequences=n_sequences,
            n_heads=n_heads,
            scale=width**-0.5,
            **word_arguments(words),
            **search(n_sequences),
            PASS=step,
            WIDTH=width,
            BLOCK_E=max(16, triton.next_power_of_2(width)),
            BLOCK=block,
            DROPOUT=words.p > 0,
            PRECISION=precision,
            num_warps=num_warps,
            num_stages=2,
        )


@triton.jit
def _tile(
    q_tile,
    k_tile,
    v_tile,
    grad_out_tile,
    top,
    inverse,
    query,
    key_begin,
    head,
    length,
    user,
    scale,
    keep_from,
    keep_scale,
    seed,
    epoch,
    rng_stream,
    BLOCK: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(softmax, its gradient, the weights after dropout) of a tile of queries and keys."""
    key = key_begin + tl.arange(0, BLOCK)
    kept = (key[None, :] <= query[:, None]) & (query[:, None] < length)
    scores = dot(q_tile, tl.trans(k_tile), PRECISION)
    exponents = tl.where(kept, (scores - top[:, None]) * scale, float("-inf"))
    softmax = exp(exponents) * inverse[:, None]
    if DROPOUT:
        kept &= kept_weights(
            query, key_begin, head, length, user, keep_from, seed, epoch, rng_stream, BLOCK
        )
    grad_weights = dot(grad_out_tile, tl.trans(v_tile), PRECISION)
    grad_softmax = tl.where(kept, grad_weights * keep_scale, 0.0)
    return softmax, grad_softmax, tl.where(kept, softmax * keep_scale, 0.0)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _attention(
    q,
    k,
    v,
    out,
    grad_out,
    maximum,
    inverse,
    mean,
    grad_q,
    grad_k,
    grad_v,
    indptr,
    users,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    grad_out_token,
    grad_out_head,
    n_sequences,
    n_heads,
    scale,
    keep_from,
    keep_scale,
    seed,
    epoch,
    rng_stream,
    PASS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    FAN: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """A pass over one head of one block of a sequence.

    "forward": out, maximum and inverse of the block's queries. "queries": their grad_q and, for the
    keys' pass, each one's mean gradient of its softmax. The product of the output and its gradient
    would be that mean without a loop over the keys, but rounded otherwise, and what ought to cancel
    would not. "keys": grad_k and grad_v of the block, from the queries at and after it.
    """
    head = tl.program_id(1)
    slot = tl.program_id(0)
    sequence, first, length, begin = locate(slot, indptr, n_sequences, 1, BLOCK, FAN, LEVELS)
    if begin >= length:
        return
    user = tl.load(users + sequence)
    q += first * q_token + head * q_head
    k += first * k_token + head * k_head
    v += first * v_token + head * v_head
    own = begin + tl.arange(0, BLOCK)  # the block's queries or keys
    row = n_heads * WIDTH  # of a result
    result = first * row + head * WIDTH
    if PASS == "forward":
        q_tile = load_tile(q, own, length, q_token, WIDTH, BLOCK_E)
        top = tl.full([BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        attended = tl.zeros([BLOCK, BLOCK_E], tl.float32)
        for key_begin in range(0, begin + BLOCK, BLOCK):
            key = key_begin + tl.arange(0, BLOCK)
            k_tile = load_tile(k, key, length, k_token, WIDTH, BLOCK_E)
            v_tile = load_tile(v, key, length, v_token, WIDTH, BLOCK_E)
            scores = dot(q_tile, tl.trans(k_tile), PRECISION)
            scores = tl.where(key[None, :] <= own[:, None], scores, float("-inf"))
            # Key 0 is seen by every query, so that the maximum is finite from the first tile on.
            new_top = tl.maximum(top, tl.max(scores, 1))
            shrink = exp((top - new_top) * scale)
            weights = exp((scores - new_top[:, None]) * scale)
            top, total = new_top, total * shrink + tl.sum(weights, 1)
            if DROPOUT:
                kept = kept_weights(
                    own, key_begin, head, length, user, keep_from, seed, epoch, rng_stream, BLOCK
                )
                weights = tl.where(kept, weights, 0.0)
            attended = attended * shrink[:, None]
            attended += dot(weights, v_tile, PRECISION)
        scaled = attended * (keep_scale / total)[:, None]
        store_tile(out + result, own, length, row, scaled, WIDTH, BLOCK_E)
        place = (first + own) * n_heads + head
        tl.store(maximum + place, top, mask=own < length)
        tl.store(inverse + place, 1.0 / total, mask=own < length)
    else:
        grad_out += first * grad_out_token + head * grad_out_head
        k_tile = load_tile(k, own, length, k_token, WIDTH, BLOCK_E)
        v_tile = load_tile(v, own, length, v_token, WIDTH, BLOCK_E)
        if PASS == "queries":
            place = (first + own) * n_heads + head
            q_tile = load_tile(q, own, length, q_token, WIDTH, BLOCK_E)
            grad_out_tile = load_tile(grad_out, own, length, grad_out_token, WIDTH, BLOCK_E)
            top = tl.load(maximum + place, mask=own < length, other=0.0)
            inverse_sum = tl.load(inverse + place, mask=own < length, other=0.0)
            # Most sequences are this tile alone, on the diagonal, which is computed once.
            diagonal, grad_diagonal, _ = _tile(
                q_tile, k_tile, v_tile, grad_out_tile, top, inverse_sum, own, begin, head, length,
                user, scale, keep_from, keep_scale, seed, epoch, rng_stream,
                BLOCK, DROPOUT, PRECISION,
            )  # fmt: skip
            average = tl.sum(diagonal * grad_diagonal, 1)
            for averaged in tl.static_range(2):
                if averaged:
                    tl.store(mean + place, average, mask=own < length)
                    grad_scores = diagonal * (grad_diagonal - average[:, None])
                    gradient = dot(grad_scores, k_tile, PRECISION)
                for key_begin in range(0, begin, BLOCK):
                    key = key_begin + tl.arange(0, BLOCK)
                    k_early = load_tile(k, key, length, k_token, WIDTH, BLOCK_E)
                    v_early = load_tile(v, key, length, v_token, WIDTH, BLOCK_E)
                    softmax, grad_softmax, _ = _tile(
                        q_tile, k_early, v_early, grad_out_tile, top, inverse_sum, own, key_begin,
                        head, length, user, scale, keep_from, keep_scale, seed, epoch, rng_stream,
                        BLOCK, DROPOUT, PRECISION,
                    )  # fmt: skip
                    if averaged:
                        grad_scores = softmax * (grad_softmax - average[:, None])
                        gradient += dot(grad_scores, k_early, PRECISION)
                    else:
                        average += tl.sum(softmax * grad_softmax, 1)
            store_tile(grad_q + result, own, length, row, gradient * scale, WIDTH, BLOCK_E)
        else:
            k_gradient = tl.zeros([BLOCK, BLOCK_E], tl.float32)
            v_gradient = tl.zeros([BLOCK, BLOCK_E], tl.float32)
            for query_begin in range(begin, length, BLOCK):
                query = query_begin + tl.arange(0, BLOCK)
                place = (first + query) * n_heads + head
                q_tile = load_tile(q, query, length, q_token, WIDTH, BLOCK_E)
                grad_out_tile = load_tile(grad_out, query, length, grad_out_token, WIDTH, BLOCK_E)
                top = tl.load(maximum + place, mask=query < length, other=0.0)
                inverse_sum = tl.load(inverse + place, mask=query < length, other=0.0)
                average = tl.load(mean + place, mask=query < length, other=0.0)
                softmax, grad_softmax, weights = _tile(
                    q_tile, k_tile, v_tile, grad_out_tile, top, inverse_sum, query, begin, head,
                    length, user, scale, keep_from, keep_scale, seed, epoch, rng_stream,
                    BLOCK, DROPOUT, PRECISION,
                )  # fmt: skip
                grad_scores = tl.trans(softmax * (grad_softmax - average[:, None]))
                k_gradient += dot(grad_scores, q_tile, PRECISION)
                v_gradient += dot(tl.trans(weights), grad_out_tile, PRECISION)
            store_tile(grad_k + result, own, length, row, k_gradient * scale, WIDTH, BLOCK_E)
            store_tile(grad_v + result, own, length, row, v_gradient, WIDTH, BLOCK_E)
