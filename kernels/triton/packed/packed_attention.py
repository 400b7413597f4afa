"""Causal attention within packed sequences and its gradient; no score matrix in device memory.

With T tokens, n heads of width e, s bytes an element (4 or 2) and L the length that a token's
sequence has on average, one call moves and computes at least

    forward    4 s T n e + 8 T n bytes     2 T n e L operations in products
    backward   7 s T n e + 24 T n bytes    7 T n e L, and 9 T n e L where a sequence has many tiles

and 4 s T n e bytes more backward where q, k, v and the output's gradient do not stay in the 50 MB
cache from the queries' kernel to the keys'. T = 30,000, n e = 64, L = 40 in float32, forward:
31 MB and 0.15 GFLOP, 9 us on an H100 (3.35 TB/s) and 6.4 us on an H200 (4.8 TB/s), the operations
2.3 us at 67 TFLOP/s; in bfloat16 half the bytes, and no time at 990 TFLOP/s. Memory is the
floor. Latency comes before it, as a program is a chain of few dependent steps (offsets, loads,
product, exponential, product), and so do instructions: as compiled for sm_90, for each of two warps
some 470 of a program and 884 of a tile forward in float32, 288 in bfloat16; 14 and 7 us. Hence:

- One program a (block of queries, head), found as ``packed`` says: thousands of independent ones.
- Tiles of 16 x 16, the smallest that matrix units take: the mean sequence has 14 tokens, and most
  of a larger tile would be masked. A sequence of 200 takes 13 steps; coming first, it is hidden.
  Square tiles leave one tile on the diagonal and none above it.
- Two warps and two stages: compiled for sm_90 by Triton 3.7, at width 64, the kernels take 80 to
  144 registers a thread, 7 to 20 KB of shared memory and no local memory, so that seven or more
  programs share a multiprocessor. Exact float32 products are unrolled: with four times the
  elements a thread, registers spill.
- Dropout draws a word an element, about 25 integer operations each, more time than bfloat16
  products take. A row of words begins a block of four, so that tiles of whole blocks draw no word
  twice.
- The gradients take two kernels, of queries and of keys, for an order of sums that never changes;
  adding one of them atomically would save reads, and with them the equal bits of two runs.

The block is not tuned at run time: it sets the order of sums, and another choice in another run
would end in another model. ``CONFIGS`` is for benchmarks.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.operands import operand
from pdrec_fast.kernels.triton.packed._sequences import (
    NOT_SPECIALIZED,
    draw,
    locate,
    n_slots,
    search,
    word_arguments,
)
from pdrec_fast.operands import PackedDropout

CONFIGS = ((16, 2), (16, 1), (32, 4), (32, 8))
"""(block, num_warps) worth trying; the first is the default."""


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
    q, k, v = (_adjacent(x) for x in (q, k, v))
    out = q.new_empty(q.shape)
    softmax = q.new_empty((2, *q.shape[:2]), dtype=torch.float32)
    if not q.numel():
        return out, softmax
    with torch.cuda.device_of(q):
        _forward[_grid(q, words.users, block)](
            q,
            k,
            v,
            out,
            *softmax.unbind(),
            words.indptr,
            words.users,
            *(stride for x in (q, k, v) for stride in x.stride()[:2]),
            **_arguments(q, words, block, precision),
            num_warps=num_warps,
            num_stages=2,
        )
    return out, softmax


def packed_attention_backward(
    of_out: torch.Tensor,
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
    of_out, q, k, v = (_adjacent(x) for x in (of_out, q, k, v))
    of_q, of_k, of_v = (q.new_empty(q.shape) for _ in range(3))
    if not q.numel():
        return of_q, of_k, of_v
    mean = torch.empty_like(softmax[0])
    inputs = (q, k, v, of_out, *softmax.unbind(), mean)
    strides = [stride for x in (q, k, v, of_out) for stride in x.stride()[:2]]
    options = _arguments(q, words, block, precision)
    options |= {"num_warps": num_warps, "num_stages": 2}
    grid = _grid(q, words.users, block)
    with torch.cuda.device_of(q):
        _backward_queries[grid](*inputs, of_q, *words[:2], *strides, **options)
        _backward_keys[grid](*inputs, of_k, of_v, *words[:2], *strides, **options)
    return of_q, of_k, of_v


def _adjacent(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _grid(q: torch.Tensor, users: torch.Tensor, block: int) -> tuple[int, int]:
    return n_slots(len(q), len(users), block), q.shape[1]


def _arguments(q: torch.Tensor, words: PackedDropout, block: int, precision: str) -> dict[str, Any]:
    """Those that all three kernels take by name."""
    width = q.shape[2]
    return {
        "n_sequences": len(words.users),
        "n_heads": q.shape[1],
        "scale": width**-0.5,
        **word_arguments(words),
        **search(len(words.users)),
        "WIDTH": width,
        "BLOCK_E": max(16, triton.next_power_of_2(width)),
        "BLOCK": block,
        "DROPOUT": words.p > 0,
        "PRECISION": precision,
    }


@triton.jit
def _load(base, row, n_rows, stride, WIDTH: tl.constexpr, BLOCK_E: tl.constexpr):
    """Rows [len(row), BLOCK_E], zero beyond ``n_rows`` and ``WIDTH``."""
    column = tl.arange(0, BLOCK_E)
    inside = (row[:, None] < n_rows) & (column[None, :] < WIDTH)
    return tl.load(base + row[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def _store(base, row, n_rows, stride, values, WIDTH: tl.constexpr, BLOCK_E: tl.constexpr):
    column = tl.arange(0, BLOCK_E)
    inside = (row[:, None] < n_rows) & (column[None, :] < WIDTH)
    at = base + row[:, None] * stride + column[None, :]
    tl.store(at, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _kept(
    query,
    key_begin,
    head,
    length,
    user,
    keep_from,
    seed,
    epoch,
    rng_stream,
    BLOCK: tl.constexpr,
):
    """Which weights of a tile dropout keeps: bool [len(query), BLOCK]."""
    row = head * length + query
    block = key_begin // 4 + tl.arange(0, BLOCK // 4)
    block = row[:, None] * ((length + 3) // 4) + block[None, :]
    return draw(block, user, seed, epoch, rng_stream) >= keep_from.to(tl.uint32)


@triton.jit
def _dot(a, b, PRECISION: tl.constexpr):
    """a b in float32, a rounded to the type of b."""
    return tl.dot(operand(a.to(b.dtype)), operand(b), input_precision=PRECISION)


@triton.jit
def _exp(x):
    return tl.exp2(x * 1.4426950408889634)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _forward(
    q,
    k,
    v,
    out,
    maximum,
    inverse,
    indptr,
    users,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    n_sequences,
    n_heads,
    scale,
    keep_from,
    keep_scale,
    seed,
    epoch,
    rng_stream,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    FAN: tl.constexpr,
    LEVELS: tl.constexpr,
):
    slot, head = tl.program_id(0), tl.program_id(1)
    sequence, first, length, begin = locate(slot, indptr, n_sequences, 1, BLOCK, FAN, LEVELS)
    if begin >= length:
        return
    user = tl.load(users + sequence)
    query = begin + tl.arange(0, BLOCK)
    q_tile = _load(q + first * q_token + head * q_head, query, length, q_token, WIDTH, BLOCK_E)
    k += first * k_token + head * k_head
    v += first * v_token + head * v_head
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    attended = tl.zeros([BLOCK, BLOCK_E], tl.float32)
    for key_begin in range(0, begin + BLOCK, BLOCK):
        key = key_begin + tl.arange(0, BLOCK)
        k_tile = _load(k, key, length, k_token, WIDTH, BLOCK_E)
        v_tile = _load(v, key, length, v_token, WIDTH, BLOCK_E)
        scores = _dot(q_tile, tl.trans(k_tile), PRECISION)
        scores = tl.where(key[None, :] <= query[:, None], scores, float("-inf"))
        # Key 0 is seen by every query, so that the maximum is finite from the first tile on.
        new_top = tl.maximum(top, tl.max(scores, 1))
        shrink = _exp((top - new_top) * scale)
        weights = _exp((scores - new_top[:, None]) * scale)
        top, total = new_top, total * shrink + tl.sum(weights, 1)
        if DROPOUT:
            kept = _kept(
                query, key_begin, head, length, user, keep_from, seed, epoch, rng_stream, BLOCK
            )
            weights = tl.where(kept, weights, 0.0)
        attended = attended * shrink[:, None]
        attended += _dot(weights, v_tile, PRECISION)
    scaled = attended * (keep_scale / total)[:, None]
    row = n_heads * WIDTH
    _store(out + first * row + head * WIDTH, query, length, row, scaled, WIDTH, BLOCK_E)
    place = (first + query) * n_heads + head
    tl.store(maximum + place, top, mask=query < length)
    tl.store(inverse + place, 1.0 / total, mask=query < length)


@triton.jit
def _tile(
    q_tile,
    k_tile,
    v_tile,
    of_out_tile,
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
    scores = _dot(q_tile, tl.trans(k_tile), PRECISION)
    exponents = tl.where(kept, (scores - top[:, None]) * scale, float("-inf"))
    softmax = _exp(exponents) * inverse[:, None]
    if DROPOUT:
        kept &= _kept(
            query, key_begin, head, length, user, keep_from, seed, epoch, rng_stream, BLOCK
        )
    of_weights = _dot(of_out_tile, tl.trans(v_tile), PRECISION)
    of_softmax = tl.where(kept, of_weights * keep_scale, 0.0)
    return softmax, of_softmax, tl.where(kept, softmax * keep_scale, 0.0)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _backward_queries(
    q,
    k,
    v,
    of_out,
    maximum,
    inverse,
    mean,
    of_q,
    indptr,
    users,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    of_out_token,
    of_out_head,
    n_sequences,
    n_heads,
    scale,
    keep_from,
    keep_scale,
    seed,
    epoch,
    rng_stream,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    FAN: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """The gradient of q, and for the keys' kernel each query's mean gradient of its softmax.

    The product of the output and its gradient would be that mean without a loop over the keys, but
    rounded otherwise, and what ought to cancel would not. Most sequences are a single tile, the
    one on the diagonal, which is computed once.
    """
    slot, head = tl.program_id(0), tl.program_id(1)
    sequence, first, length, begin = locate(slot, indptr, n_sequences, 1, BLOCK, FAN, LEVELS)
    if begin >= length:
        return
    user = tl.load(users + sequence)
    q += first * q_token + head * q_head
    k += first * k_token + head * k_head
    v += first * v_token + head * v_head
    of_out += first * of_out_token + head * of_out_head
    query = begin + tl.arange(0, BLOCK)
    place = (first + query) * n_heads + head
    q_tile = _load(q, query, length, q_token, WIDTH, BLOCK_E)
    of_out_tile = _load(of_out, query, length, of_out_token, WIDTH, BLOCK_E)
    top = tl.load(maximum + place, mask=query < length, other=0.0)
    inverse_sum = tl.load(inverse + place, mask=query < length, other=0.0)

    k_tile = _load(k, query, length, k_token, WIDTH, BLOCK_E)
    v_tile = _load(v, query, length, v_token, WIDTH, BLOCK_E)
    diagonal, of_diagonal, _ = _tile(
        q_tile, k_tile, v_tile, of_out_tile, top, inverse_sum, query, begin, head, length, user,
        scale, keep_from, keep_scale, seed, epoch, rng_stream, BLOCK, DROPOUT, PRECISION,
    )  # fmt: skip
    average = tl.sum(diagonal * of_diagonal, 1)
    for key_begin in range(0, begin, BLOCK):
        key = key_begin + tl.arange(0, BLOCK)
        k_early = _load(k, key, length, k_token, WIDTH, BLOCK_E)
        v_early = _load(v, key, length, v_token, WIDTH, BLOCK_E)
        softmax, of_softmax, _ = _tile(
            q_tile, k_early, v_early, of_out_tile, top, inverse_sum, query, key_begin, head, length,
            user, scale, keep_from, keep_scale, seed, epoch, rng_stream, BLOCK, DROPOUT, PRECISION,
        )  # fmt: skip
        average += tl.sum(softmax * of_softmax, 1)
    tl.store(mean + place, average, mask=query < length)

    of_scores = diagonal * (of_diagonal - average[:, None])
    gradient = _dot(of_scores, k_tile, PRECISION)
    for key_begin in range(0, begin, BLOCK):
        key = key_begin + tl.arange(0, BLOCK)
        k_early = _load(k, key, length, k_token, WIDTH, BLOCK_E)
        v_early = _load(v, key, length, v_token, WIDTH, BLOCK_E)
        softmax, of_softmax, _ = _tile(
            q_tile, k_early, v_early, of_out_tile, top, inverse_sum, query, key_begin, head, length,
            user, scale, keep_from, keep_scale, seed, epoch, rng_stream, BLOCK, DROPOUT, PRECISION,
        )  # fmt: skip
        of_scores = softmax * (of_softmax - average[:, None])
        gradient += _dot(of_scores, k_early, PRECISION)
    row = n_heads * WIDTH
    of_q += first * row + head * WIDTH
    _store(of_q, query, length, row, gradient * scale, WIDTH, BLOCK_E)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _backward_keys(
    q,
    k,
    v,
    of_out,
    maximum,
    inverse,
    mean,
    of_k,
    of_v,
    indptr,
    users,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    of_out_token,
    of_out_head,
    n_sequences,
    n_heads,
    scale,
    keep_from,
    keep_scale,
    seed,
    epoch,
    rng_stream,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    FAN: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """The gradients of k and v, from the queries at and after each block of keys."""
    slot, head = tl.program_id(0), tl.program_id(1)
    sequence, first, length, begin = locate(slot, indptr, n_sequences, 1, BLOCK, FAN, LEVELS)
    if begin >= length:
        return
    user = tl.load(users + sequence)
    q += first * q_token + head * q_head
    of_out += first * of_out_token + head * of_out_head
    key = begin + tl.arange(0, BLOCK)
    k_tile = _load(k + first * k_token + head * k_head, key, length, k_token, WIDTH, BLOCK_E)
    v_tile = _load(v + first * v_token + head * v_head, key, length, v_token, WIDTH, BLOCK_E)
    k_gradient = tl.zeros([BLOCK, BLOCK_E], tl.float32)
    v_gradient = tl.zeros([BLOCK, BLOCK_E], tl.float32)
    for query_begin in range(begin, length, BLOCK):
        query = query_begin + tl.arange(0, BLOCK)
        place = (first + query) * n_heads + head
        q_tile = _load(q, query, length, q_token, WIDTH, BLOCK_E)
        of_out_tile = _load(of_out, query, length, of_out_token, WIDTH, BLOCK_E)
        top = tl.load(maximum + place, mask=query < length, other=0.0)
        inverse_sum = tl.load(inverse + place, mask=query < length, other=0.0)
        average = tl.load(mean + place, mask=query < length, other=0.0)
        softmax, of_softmax, weights = _tile(
            q_tile, k_tile, v_tile, of_out_tile, top, inverse_sum, query, begin, head, length, user,
            scale, keep_from, keep_scale, seed, epoch, rng_stream, BLOCK, DROPOUT, PRECISION,
        )  # fmt: skip
        of_scores = tl.trans(softmax * (of_softmax - average[:, None]))
        k_gradient += _dot(of_scores, q_tile, PRECISION)
        v_gradient += _dot(tl.trans(weights), of_out_tile, PRECISION)
    row = n_heads * WIDTH
    offset = first * row + head * WIDTH
    _store(of_k + offset, key, length, row, k_gradient * scale, WIDTH, BLOCK_E)
    _store(of_v + offset, key, length, row, v_gradient, WIDTH, BLOCK_E)
