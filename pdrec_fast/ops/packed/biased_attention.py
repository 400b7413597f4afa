"""Causal attention within packed sequences whose scores have biases of distance and of time."""

from __future__ import annotations

from typing import Any

import torch

from pdrec_fast.build_info import extension
from pdrec_fast.operands import AttentionBiases, PackedDropout
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.ops.packed._sequences import (
    DropoutKey,
    adjacent_rows,
    check_heads,
    cpp_arguments,
    of_one_dtype,
    offsets,
    packed_dropout_of,
)
from pdrec_fast.ops.packed._triton import offered, on_device
from pdrec_fast.ops.packed.packed_attention import packed_attention
from pdrec_fast.random_keys import ENCODER
from pdrec_fast.reference.packed import biased_attention as reference


def biased_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    indptr: torch.Tensor,
    biases: AttentionBiases,
    *,
    pointwise: bool = False,
    dropout: float = 0.0,
    key: DropoutKey | None = None,
    stream: int = ENCODER,
    impl: str = "auto",
) -> torch.Tensor:
    """``softmax(q k' / sqrt(e) + b) v``, or ``silu(q k' + b) v / n`` where ``pointwise``, over the
    n tokens of each sequence up to the query's.

    ``b_ij = distance[i - j] + time[bucket(|times_i - times_j|)]``, as far as they are given, in all
    heads; a bucket is the last whose beginning a time has reached. Without a softmax this is the
    attention of HSTU (Zhai et al., 2024, arXiv:2402.17152, eq. 2); a softmax without biases is
    ``packed_attention``, whose dropout of weights this has too. Differentiable (once) in q, k, v
    and both biases.

    Args:
        q, k, v: [T, heads, e], float32 (any floating dtype for the reference). Of one dtype, which
            autocast sees to: in float32 on a CPU, in the widest of theirs on a GPU.
        indptr: int64 [B + 1]; sequence b has the tokens ``indptr[b]:indptr[b + 1]``; checked where
            it is on the host, taken as it is on a GPU. The work is spread best where the longest
            sequences come first.
        biases: ``distance`` [n], n > 0, and ``time`` [m], float32 or of the dtype of q; the latter
            with ``times``, float64 [T] and finite, and ``begins``, float64 [m], rising from 0.
            Differences of times are those of float64: exact for whole numbers below 2**53.
        pointwise: no softmax, and no dropout.
        dropout: p in [0, 1).
        key: whose random numbers; needed where p is not 0.
        stream: of the random generator, in 0 .. 2**32 - 1; one for each place in a model.
        impl: ``"auto"``, ``"triton"`` (float32 and bfloat16 on a GPU, computed in float32),
            ``"cpp"`` (float32 on the CPU) or ``"reference"``; the same weights are kept in all, and
            all find the same buckets.

    Returns:
        [T, heads, e]. The bits of a sequence's outputs depend neither on the rest of the batch nor,
        with ``"cpp"``, on threads and instruction set, and no more do those of the gradients; two
        runs of ``"triton"`` have equal bits. No implementation but the reference keeps the scores
        of all pairs.

    Raises:
        ValueError: an argument is out of its range, or shapes do not fit.
        BackendError: the named implementation cannot run here.
    """
    q, k, v = of_one_dtype(q, k, v)
    check_heads(q, k, v)
    _check_biases(q, biases)
    if pointwise and dropout:
        raise ValueError(f"dropout={dropout} is one of softmax weights: leave it out, or pointwise")
    if not pointwise and biases.distance is None and biases.time is None:
        return packed_attention(q, k, v, indptr, dropout=dropout, key=key, stream=stream, impl=impl)
    words = packed_dropout_of(indptr, dropout, key, stream)
    chosen = choose("biased_attention", impl, offered(q))
    if chosen == "reference":
        offsets(indptr, len(q))
        return reference.biased_attention(q, k, v, words, biases, pointwise)
    distance, time = (None if x is None else x.float() for x in biases[:2])
    biases = AttentionBiases(distance, time, biases.times, biases.begins)
    return _biased_attention(q, k, v, words, biases, pointwise, chosen)[0]


def _check_biases(q: torch.Tensor, biases: AttentionBiases) -> None:
    for name, bias in zip(("distance", "time"), biases[:2], strict=True):
        if bias is None:
            continue
        if bias.ndim != 1 or not len(bias) or bias.dtype not in (torch.float32, q.dtype):
            raise ValueError(
                f"biases.{name} must be float32 or {q.dtype} of shape [n], n > 0, got "
                f"{bias.dtype} of shape {tuple(bias.shape)}"
            )
    if biases.time is None:
        return
    for name, length in (("times", len(q)), ("begins", len(biases.time))):
        given = getattr(biases, name)
        if given is None:
            raise ValueError(f"a bias of time needs biases.{name}: float64 [{length}]")
        if given.shape != (length,) or given.dtype != torch.float64:
            raise ValueError(
                f"biases.{name} must be float64 of shape [{length}], got {given.dtype} of shape "
                f"{tuple(given.shape)}"
            )


@operation(
    fake=lambda a: (
        a.q.new_empty(a.q.shape),
        a.q.new_empty(_softmax_shape(a.q, a.pointwise), dtype=torch.float32),
    ),
    # On a GPU as ``packed_attention``; biases are float32 in any case.
    autocast={"cpu": torch.float32},
)
def _biased_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    words: PackedDropout,
    biases: AttentionBiases,
    pointwise: bool,
    impl: str = "cpp",
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, softmax as in ``packed_attention``, of scores with their biases; empty where
    pointwise)."""
    if impl == "triton":
        from pdrec_fast.kernels.triton.packed import biased_attention as kernels

        return kernels.biased_attention(q, k, v, on_device(q, words), biases, pointwise)
    out, softmax = q.new_empty(q.shape), q.new_empty(_softmax_shape(q, pointwise))
    extension.biased_attention(
        adjacent_rows(q),
        adjacent_rows(k),
        adjacent_rows(v),
        cpp_arguments(len(q), words),
        _arrays(biases),
        pointwise,
        out.numpy(),
        softmax.numpy(),
        torch.get_num_threads(),
    )
    return out, softmax


@operation(
    fake=lambda a: (
        *(a.q.new_empty(a.q.shape) for _ in range(3)),
        *(_like_bias(bias, a.q) for bias in a.biases[:2]),
    )
)
def _biased_attention_backward(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax: torch.Tensor,
    words: PackedDropout,
    biases: AttentionBiases,
    pointwise: bool,
    impl: str = "cpp",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k, v and the two biases, [0] of one that is not there; weights, mask and
    buckets are computed again, not stored."""
    if impl == "triton":
        from pdrec_fast.kernels.triton.packed import biased_attention as kernels

        return kernels.biased_attention_backward(
            grad_out, q, k, v, softmax, on_device(q, words), biases, pointwise
        )
    grad_q, grad_k, grad_v = q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape)
    grad_distance, grad_time = (_like_bias(bias, q) for bias in biases[:2])
    extension.biased_attention_backward(
        adjacent_rows(grad_out),
        adjacent_rows(q),
        adjacent_rows(k),
        adjacent_rows(v),
        cpp_arguments(len(q), words),
        _arrays(biases),
        pointwise,
        softmax.detach().numpy(),
        grad_q.numpy(),
        grad_k.numpy(),
        grad_v.numpy(),
        grad_distance.numpy(),
        grad_time.numpy(),
        torch.get_num_threads(),
    )
    return grad_q, grad_k, grad_v, grad_distance, grad_time


@_biased_attention.gradient(
    of=["q", "k", "v", "distance", "time"],
    saves=["q", "k", "v", "words", "biases", "pointwise", "impl"],
    outputs=[1],
    constant=[1],
)
def _(saved: Any, grad_out: torch.Tensor, _: None) -> tuple[torch.Tensor | None, ...]:
    *gradients, grad_distance, grad_time = _biased_attention_backward(
        grad_out.contiguous(),
        saved.q,
        saved.k,
        saved.v,
        *saved.outputs,
        saved.words,
        saved.biases,
        saved.pointwise,
        saved.impl,
    )
    return (
        *gradients,
        None if saved.biases.distance is None else grad_distance,
        None if saved.biases.time is None else grad_time,
    )


def _softmax_shape(q: torch.Tensor, pointwise: bool) -> tuple[int, ...]:
    return (0 if pointwise else 2, *q.shape[:2])


def _like_bias(bias: torch.Tensor | None, q: torch.Tensor) -> torch.Tensor:
    return q.new_empty(0 if bias is None else len(bias), dtype=torch.float32)


def _arrays(biases: AttentionBiases) -> Any:
    return tuple(None if x is None else x.detach().contiguous().numpy() for x in biases)
