"""Causal attention whose scores have biases of distance and of time, and its gradient; no matrix of
scores, biases or buckets in device memory.

Programs, tiles and passes are those of ``packed_attention``; see there for why. What is added:

- A pair's bucket is found in ``begins`` by halving, ``log2(m)`` reads of a table that the first
  cache holds, on float64 differences: the same bucket as everywhere else, whatever the table.
- The gradients of the biases are sums over all pairs of the batch. They are added atomically, but
  as integers, for which the order does not matter, so that two runs have equal bits. Their unit
  follows from a bound on the sum: the gradients of one query's scores add up to at most
  ``2 |grad_out_i| max_j |v_j|`` (1.1 times it where pointwise), so 62 bits hold those of all
  queries. What is not finite is counted apart and makes both gradients NaN.
- ``COPIES`` of the sums, so that programs seldom wait for each other's additions.

Pointwise attention needs neither a maximum nor a mean, and its queries' pass one loop.
"""

from __future__ import annotations

from typing import Any

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
from pdrec_fast.operands import AttentionBiases, PackedDropout

CONFIGS = ((16, 4), (16, 2), (32, 4))
"""(block, num_warps) worth trying; the first is the default."""

COPIES = 64

_UNUSED = dict.fromkeys(
    ("out", "grad_out", "mean", "grad_q", "grad_k", "grad_v", "sums", "to_fixed")
)
"""The kernel's tensors that one pass or another does without."""


def biased_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    words: PackedDropout,
    biases: AttentionBiases,
    pointwise: bool,
    *,
    block: int = CONFIGS[0][0],
    num_warps: int = CONFIGS[0][1],
    precision: str = "ieee",
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out [T, heads, e], softmax float32 [2, T, heads], [0, T, heads] where pointwise) as
    ``ops.biased_attention`` defines them.

    Args:
        precision: of float32 products, ``tl.dot``'s ``input_precision``.
    """
    out = q.new_empty(q.shape)
    softmax = q.new_empty((0 if pointwise else 2, *q.shape[:2]), dtype=torch.float32)
    tensors = adjacent(q=q, k=k, v=v) | {"out": out}
    options = {"BLOCK": block, "num_warps": num_warps, "PRECISION": precision}
    _launch("forward", tensors, softmax, words, biases, pointwise, options)
    return out, softmax


def biased_attention_backward(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax: torch.Tensor,
    words: PackedDropout,
    biases: AttentionBiases,
    pointwise: bool,
    *,
    block: int = CONFIGS[0][0],
    num_warps: int = CONFIGS[0][1],
    precision: str = "ieee",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k, v and the two biases, [0] of one that is not there."""
    gradients = {name: q.new_empty(q.shape) for name in ("grad_q", "grad_k", "grad_v")}
    lengths = [0 if bias is None else len(bias) for bias in biases[:2]]
    tensors = adjacent(q=q, k=k, v=v, grad_out=grad_out) | gradients
    if not pointwise:
        tensors["mean"] = torch.empty_like(softmax[0])
    sums = torch.zeros((COPIES, sum(lengths) + 1), dtype=torch.int64, device=q.device)
    to_fixed = _to_fixed(grad_out, v, words)
    tensors |= {"sums": sums, "to_fixed": to_fixed}
    options = {"BLOCK": block, "num_warps": num_warps, "PRECISION": precision}
    for step in ("queries", "keys"):
        _launch(step, tensors, softmax, words, biases, pointwise, options)
    *of_biases, not_finite = sums.sum(0).split([*lengths, 1])
    grad_distance, grad_time = (
        torch.where(not_finite == 0, part.double() / to_fixed, torch.nan).float()
        for part in of_biases
    )
    return (*gradients.values(), grad_distance, grad_time)


def _to_fixed(grad_out: torch.Tensor, v: torch.Tensor, words: PackedDropout) -> torch.Tensor:
    """What makes sums of the scores' gradients integers of 63 bits: float64 [1]."""
    if not v.numel():
        return torch.ones(1, dtype=torch.float64, device=v.device)
    most = grad_out.abs().amax().double() * v.abs().amax().double() * v.shape[2]
    bound = 2.2 * words.keep_scale * v.shape[0] * v.shape[1] * most
    return (2.0**62 / bound.clamp_min(1e-200)).view(1)


def _launch(
    step: str,
    tensors: dict[str, torch.Tensor],
    softmax: torch.Tensor,
    words: PackedDropout,
    biases: AttentionBiases,
    pointwise: bool,
    options: dict[str, Any],
) -> None:
    q, n_sequences = tensors["q"], len(words.users)
    if not q.numel():
        return
    _, n_heads, width = q.shape
    n_distances, n_buckets = (0 if bias is None else len(bias) for bias in biases[:2])
    given = {f"{name}_bias": bias for name, bias in zip(("distance", "time"), biases, strict=False)}
    with torch.cuda.device_of(q):
        _attention[(n_slots(len(q), n_sequences, options["BLOCK"]), n_heads)](
            **(_UNUSED | tensors),
            maximum=None if pointwise else softmax[0],
            inverse=None if pointwise else softmax[1],
            **given,
            times=biases.times,
            begins=biases.begins,
            indptr=words.indptr,
            users=words.users,
            **strides_of(tensors),
            n_sequences=n_sequences,
            n_heads=n_heads,
            n_distances=n_distances,
            n_buckets=n_buckets,
            scale=1.0 if pointwise else width**-0.5,
            **word_arguments(words),
            **search(n_sequences),
            PASS=step,
            POINTWISE=pointwise,
            BUCKET_LEVELS=max(n_buckets - 1, 0).bit_length(),
            HAS_DISTANCE=biases.distance is not None,
            HAS_TIME=biases.time is not None,
            COPIES=COPIES,
            WIDTH=width,
            BLOCK_E=max(16, triton.next_power_of_2(width)),
            DROPOUT=words.p > 0,
            **options,
            num_stages=2,
        )


@triton.jit
def _bucket(between, begins, n_buckets, BUCKET_LEVELS: tl.constexpr):
    """The last bucket whose beginning each of these times has reached."""
    bucket = (between * 0).to(tl.int32)
    for level in tl.static_range(BUCKET_LEVELS):
        tried = bucket + (1 << (BUCKET_LEVELS - 1 - level))
        there = tried < n_buckets
        begin = tl.load(begins + tried, mask=there, other=0.0)
        bucket = tl.where(there & (between >= begin), tried, bucket)
    return bucket


@triton.jit
def _scores(
    q_tile,
    k_tile,
    query,
    key,
    length,
    distance_bias,
    time_bias,
    times,
    begins,
    n_distances,
    n_buckets,
    scale,
    BUCKET_LEVELS: tl.constexpr,
    HAS_DISTANCE: tl.constexpr,
    HAS_TIME: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(scores with their biases, the place of each bias) of a tile of queries and keys."""
    scores = dot(q_tile, tl.trans(k_tile), PRECISION) * scale
    distance = query[:, None] - key[None, :]
    distance = tl.minimum(tl.maximum(distance, 0), tl.maximum(n_distances - 1, 0))
    bucket = distance * 0
    if HAS_DISTANCE:
        scores += tl.load(distance_bias + distance)
    if HAS_TIME:
        of_query = tl.load(times + query, mask=query < length, other=0.0)
        of_key = tl.load(times + key, mask=key < length, other=0.0)
        between = tl.abs(of_query[:, None] - of_key[None, :])
        bucket = _bucket(between, begins, n_buckets, BUCKET_LEVELS)
        scores += tl.load(time_bias + bucket)
    return scores, distance, bucket


@triton.jit
def _sigmoids(x):
    """The logistic function of x and of -x, neither of which loses digits."""
    small = exp(-tl.abs(x))
    larger = 1.0 / (1.0 + small)
    smaller = small * larger
    return tl.where(x > 0, larger, smaller), tl.where(x > 0, smaller, larger)


@triton.jit
def _derivatives(
    scores,
    v_tile,
    grad_out_tile,
    top,
    inverse,
    query,
    key,
    key_begin,
    head,
    length,
    user,
    keep_from,
    keep_scale,
    seed,
    epoch,
    rng_stream,
    POINTWISE: tl.constexpr,
    BLOCK: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(d weight / d score, the weights' gradient, the weights after dropout) of a tile.

    Of a softmax the first is the weight, and belongs to the gradient less its mean.
    """
    seen = (key[None, :] <= query[:, None]) & (query[:, None] < length)
    if POINTWISE:
        of_score, of_negative = _sigmoids(scores)
        share = 1.0 / (query + 1).to(tl.float32)[:, None]
        silu = scores * of_score
        slope = tl.where(seen, (of_score + silu * of_negative) * share, 0.0)
        weights = tl.where(seen, silu * share, 0.0)
    else:
        exponents = tl.where(seen, scores - top[:, None], float("-inf"))
        slope = exp(exponents) * inverse[:, None]
        weights = slope
    if DROPOUT:
        seen &= kept_weights(
            query, key_begin, head, length, user, keep_from, seed, epoch, rng_stream, BLOCK
        )
    grad_weights = dot(grad_out_tile, tl.trans(v_tile), PRECISION)
    grad_weights = tl.where(seen, grad_weights * keep_scale, 0.0)
    return slope, grad_weights, tl.where(seen, weights * keep_scale, 0.0)


@triton.jit
def _add(
    sums,
    grad_scores,
    seen,
    distance,
    bucket,
    to_fixed,
    n_distances,
    n_buckets,
    HAS_DISTANCE: tl.constexpr,
    HAS_TIME: tl.constexpr,
):
    """Add a tile's gradients to those of its biases, see the head of this file."""
    finite = tl.abs(grad_scores) < float("inf")
    fixed = (tl.where(finite, grad_scores, 0.0).to(tl.float64) * to_fixed).to(tl.int64)
    if HAS_DISTANCE:
        tl.atomic_add(sums + distance, fixed, mask=seen & finite, sem="relaxed")
    if HAS_TIME:
        tl.atomic_add(sums + n_distances + bucket, fixed, mask=seen & finite, sem="relaxed")
    one = tl.full(fixed.shape, 1, tl.int64)
    place = n_distances + n_buckets + bucket * 0
    tl.atomic_add(sums + place, one, mask=seen & (finite == 0), sem="relaxed")


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
    sums,
    to_fixed,
    distance_bias,
    time_bias,
    times,
    begins,
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
    n_distances,
    n_buckets,
    scale,
    keep_from,
    keep_scale,
    seed,
    epoch,
    rng_stream,
    PASS: tl.constexpr,
    POINTWISE: tl.constexpr,
    BUCKET_LEVELS: tl.constexpr,
    HAS_DISTANCE: tl.constexpr,
    HAS_TIME: tl.constexpr,
    COPIES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    FAN: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """A pass over one head of one block of a sequence.

    "forward": out, maximum and inverse of the block's queries. "queries": their grad_q, what they
    add to the biases' gradients, and, for the keys' pass, each one's mean gradient of its softmax.
    "keys": grad_k and grad_v of the block, from the queries at and after it.
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
    if HAS_TIME:
        times += first
    own = begin + tl.arange(0, BLOCK)  # the block's queries or keys
    row = n_heads * WIDTH  # of a result
    result = first * row + head * WIDTH
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    if PASS == "forward":
        q_tile = load_tile(q, own, length, q_token, WIDTH, BLOCK_E)
        attended = tl.zeros([BLOCK, BLOCK_E], tl.float32)
        for key_begin in range(0, begin + BLOCK, BLOCK):
            key = key_begin + tl.arange(0, BLOCK)
            k_tile = load_tile(k, key, length, k_token, WIDTH, BLOCK_E)
            v_tile = load_tile(v, key, length, v_token, WIDTH, BLOCK_E)
            scores, _, _ = _scores(
                q_tile, k_tile, own, key, length, distance_bias, time_bias, times, begins,
                n_distances, n_buckets, scale, BUCKET_LEVELS, HAS_DISTANCE, HAS_TIME, PRECISION,
            )  # fmt: skip
            seen = key[None, :] <= own[:, None]
            if POINTWISE:
                of_score, _ = _sigmoids(scores)
                weights = tl.where(seen, scores * of_score, 0.0)
            else:
                scores = tl.where(seen, scores, float("-inf"))
                # Key 0 is seen by every query, so that the maximum is finite from then on.
                new_top = tl.maximum(top, tl.max(scores, 1))
                shrink = exp(top - new_top)
                weights = exp(scores - new_top[:, None])
                top, total = new_top, total * shrink + tl.sum(weights, 1)
                attended = attended * shrink[:, None]
            if DROPOUT:
                kept = kept_weights(
                    own, key_begin, head, length, user, keep_from, seed, epoch, rng_stream, BLOCK
                )
                weights = tl.where(kept, weights, 0.0)
            attended += dot(weights, v_tile, PRECISION)
        if POINTWISE:
            total = (own + 1).to(tl.float32)
        scaled = attended * (keep_scale / total)[:, None]
        store_tile(out + result, own, length, row, scaled, WIDTH, BLOCK_E)
        if not POINTWISE:
            place = (first + own) * n_heads + head
            tl.store(maximum + place, top, mask=own < length)
            tl.store(inverse + place, 1.0 / total, mask=own < length)
    else:
        grad_out += first * grad_out_token + head * grad_out_head
        average = tl.zeros([BLOCK], tl.float32)
        if PASS == "queries":
            place = (first + own) * n_heads + head
            q_tile = load_tile(q, own, length, q_token, WIDTH, BLOCK_E)
            grad_out_tile = load_tile(grad_out, own, length, grad_out_token, WIDTH, BLOCK_E)
            if not POINTWISE:
                top = tl.load(maximum + place, mask=own < length, other=0.0)
                total = tl.load(inverse + place, mask=own < length, other=0.0)
            sums += (slot % COPIES) * (n_distances + n_buckets + 1)
            unit = tl.load(to_fixed)
            gradient = tl.zeros([BLOCK, BLOCK_E], tl.float32)
            for averaged in tl.static_range(1 if POINTWISE else 0, 2):
                for key_begin in range(0, begin + BLOCK, BLOCK):
                    key = key_begin + tl.arange(0, BLOCK)
                    k_tile = load_tile(k, key, length, k_token, WIDTH, BLOCK_E)
                    v_tile = load_tile(v, key, length, v_token, WIDTH, BLOCK_E)
                    scores, distance, bucket = _scores(
                        q_tile, k_tile, own, key, length, distance_bias, time_bias, times, begins,
                        n_distances, n_buckets, scale,
                        BUCKET_LEVELS, HAS_DISTANCE, HAS_TIME, PRECISION,
                    )  # fmt: skip
                    slope, grad_weights, _ = _derivatives(
                        scores, v_tile, grad_out_tile, top, total, own, key, key_begin, head,
                        length, user, keep_from, keep_scale, seed, epoch, rng_stream,
                        POINTWISE, BLOCK, DROPOUT, PRECISION,
                    )  # fmt: skip
                    if averaged:
                        grad_scores = slope * (grad_weights - average[:, None])
                        seen = (key[None, :] <= own[:, None]) & (own[:, None] < length)
                        _add(
                            sums, grad_scores, seen, distance, bucket, unit,
                            n_distances, n_buckets, HAS_DISTANCE, HAS_TIME,
                        )  # fmt: skip
                        gradient += dot(grad_scores, k_tile, PRECISION)
                    else:
                        average += tl.sum(slope * grad_weights, 1)
            if not POINTWISE:
                tl.store(mean + place, average, mask=own < length)
            store_tile(grad_q + result, own, length, row, gradient * scale, WIDTH, BLOCK_E)
        else:
            k_gradient = tl.zeros([BLOCK, BLOCK_E], tl.float32)
            v_gradient = tl.zeros([BLOCK, BLOCK_E], tl.float32)
            for query_begin in range(begin, length, BLOCK):
                query = query_begin + tl.arange(0, BLOCK)
                # Operands of products that stayed in registers for the whole loop would spill. So
                # they are read again, at a place that the compiler cannot know to be the same.
                again = own + tl.minimum(query_begin, 0)
                k_tile = load_tile(k, again, length, k_token, WIDTH, BLOCK_E)
                v_tile = load_tile(v, again, length, v_token, WIDTH, BLOCK_E)
                q_tile = load_tile(q, query, length, q_token, WIDTH, BLOCK_E)
                grad_out_tile = load_tile(grad_out, query, length, grad_out_token, WIDTH, BLOCK_E)
                if not POINTWISE:
                    place = (first + query) * n_heads + head
                    top = tl.load(maximum + place, mask=query < length, other=0.0)
                    total = tl.load(inverse + place, mask=query < length, other=0.0)
                    average = tl.load(mean + place, mask=query < length, other=0.0)
                scores, _, _ = _scores(
                    q_tile, k_tile, query, own, length, distance_bias, time_bias, times, begins,
                    n_distances, n_buckets, scale,
                    BUCKET_LEVELS, HAS_DISTANCE, HAS_TIME, PRECISION,
                )  # fmt: skip
                slope, grad_weights, weights = _derivatives(
                    scores, v_tile, grad_out_tile, top, total, query, own, begin, head, length,
                    user, keep_from, keep_scale, seed, epoch, rng_stream,
                    POINTWISE, BLOCK, DROPOUT, PRECISION,
                )  # fmt: skip
                grad_scores = tl.trans(slope * (grad_weights - average[:, None]))
                k_gradient += dot(grad_scores, q_tile, PRECISION)
                v_gradient += dot(tl.trans(weights), grad_out_tile, PRECISION)
            store_tile(grad_k + result, own, length, row, k_gradient * scale, WIDTH, BLOCK_E)
            store_tile(grad_v + result, own, length, row, v_gradient, WIDTH, BLOCK_E)
