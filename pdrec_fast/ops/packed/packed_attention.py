"""Causal attention within packed sequences, with dropout of its weights."""

from __future__ import annotations

from typing import Any

import torch

from pdrec_fast.build_info import extension
from pdrec_fast.operands import PackedDropout
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
from pdrec_fast.random_keys import ENCODER
from pdrec_fast.reference.packed import packed_attention as reference


def packed_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    indptr: torch.Tensor,
    *,
    dropout: float = 0.0,
    key: DropoutKey | None = None,
    stream: int = ENCODER,
    impl: str = "auto",
) -> torch.Tensor:
    """``softmax(q k' / sqrt(e)) v`` over the same and earlier tokens of each sequence.

    Scaled dot-product attention (Vaswani et al., 2017, eq. 1), causal. With dropout, the weight of
    query i for key j in head h of a sequence of length L takes word ``j % 4`` of block
    ``(h L + i) ceil(L / 4) + j // 4`` of the stream (seed, epoch, user, stream); it is kept, and
    divided by 1 - p, where that word is at least ``round(p * 2**32)``. Differentiable (once) in
    q, k and v.

    Args:
        q, k, v: [T, heads, e], float32 (any floating dtype for the reference). Of one dtype, which
            autocast sees to: in float32 on a CPU, in the widest of theirs on a GPU.
        indptr: int64 [B + 1]; sequence b has the tokens ``indptr[b]:indptr[b + 1]``; checked where
            it is on the host, taken as it is on a GPU. The work is spread best where the longest
            sequences come first.
        dropout: p in [0, 1).
        key: whose random numbers; needed where p is not 0.
        stream: of the random generator, in 0 .. 2**32 - 1; one for each place in a model.
        impl: ``"auto"``, ``"triton"`` (float32 and bfloat16 on a GPU, computed in float32),
            ``"cpp"`` (float32 on the CPU) or ``"reference"``; the same weights are kept in all.

    Returns:
        [T, heads, e]. The bits of a sequence's outputs depend neither on the rest of the batch nor,
        with ``"cpp"``, on threads and instruction set; two runs of ``"triton"`` have equal bits.

    Raises:
        ValueError: an argument is out of its range, or shapes do not fit.
        BackendError: the named implementation cannot run here.
    """
    q, k, v = of_one_dtype(q, k, v)
    check_heads(q, k, v)
    words = packed_dropout_of(indptr, dropout, key, stream)
    chosen = choose("packed_attention", impl, offered(q))
    if chosen == "reference":
        offsets(indptr, len(q))
        return reference.packed_attention(q, k, v, words)
    return _packed_attention(q, k, v, words, chosen)[0]


@operation(
    fake=lambda a: (
        a.q.new_empty(a.q.shape),
        a.q.new_empty((2, *a.q.shape[:2]), dtype=torch.float32),
    ),
    # On a GPU no cast: autocast's linear layers gave q, k and v their dtype already, and the
    # kernels sum in float32 whatever it is.
    autocast={"cpu": torch.float32},
)
def _packed_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, words: PackedDropout, impl: str = "cpp"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, softmax [2, T, heads], float32: each query's largest score, 1 / its exponentials' sum).

    The gradient has the weights again from softmax, bit for bit and without a logarithm.
    """
    if impl == "triton":
        from pdrec_fast.kernels.triton.packed import packed_attention as kernels

        return kernels.packed_attention(q, k, v, on_device(q, words))
    out, softmax = q.new_empty(q.shape), q.new_empty((2, *q.shape[:2]))
    extension.packed_attention(
        adjacent_rows(q),
        adjacent_rows(k),
        adjacent_rows(v),
        cpp_arguments(len(q), words),
        out.numpy(),
        softmax.numpy(),
        torch.get_num_threads(),
    )
    return out, softmax


@operation(fake=lambda a: tuple(a.q.new_empty(a.q.shape) for _ in range(3)))
def _packed_attention_backward(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax: torch.Tensor,
    words: PackedDropout,
    impl: str = "cpp",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k and v; weights and mask are computed again, not stored."""
    if impl == "triton":
        from pdrec_fast.kernels.triton.packed import packed_attention as kernels

        return kernels.packed_attention_backward(grad_out, q, k, v, softmax, on_device(q, words))
    grad_q, grad_k, grad_v = q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape)
    extension.packed_attention_backward(
        adjacent_rows(grad_out),
        adjacent_rows(q),
        adjacent_rows(k),
        adjacent_rows(v),
        cpp_arguments(len(q), words),
        softmax.detach().numpy(),
        grad_q.numpy(),
        grad_k.numpy(),
        grad_v.numpy(),
        torch.get_num_threads(),
    )
    return grad_q, grad_k, grad_v


@_packed_attention.gradient(
    of=["q", "k", "v"], saves=["q", "k", "v", "words", "impl"], outputs=[1], constant=[1]
)
def _(saved: Any, grad_out: torch.Tensor, _: None) -> tuple[torch.Tensor, ...]:
    return _packed_attention_backward(
        grad_out.contiguous(), saved.q, saved.k, saved.v, *saved.outputs, saved.words, saved.impl
    )
