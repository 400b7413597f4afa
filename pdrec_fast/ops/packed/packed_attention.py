"""Causal attention within packed sequences, with dropout of its weights."""

from __future__ import annotations

from typing import Any

import torch

from pdrec_fast.build_info import extension
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.ops.packed._sequences import (
    DropoutKey,
    cpp_arguments,
    dropout_arguments,
    of_one_dtype,
    offered,
    offsets,
    on_device,
)
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
    for name, tensor in (("k", k), ("v", v)):
        if q.ndim != 3 or tensor.shape != q.shape or tensor.dtype != q.dtype:
            raise ValueError(
                f"q and {name} must have the same dtype and shape [T, heads, e], got {q.dtype} of "
                f"shape {tuple(q.shape)} and {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
    arguments = dropout_arguments(indptr, dropout, key, stream)
    chosen = choose("packed_attention", impl, offered(q))
    if chosen == "reference":
        offsets(indptr, len(q))
        return reference.packed_attention(q, k, v, indptr, *arguments)
    return _packed_attention(q, k, v, indptr, *arguments, chosen)[0]


@torch.library.custom_op("pdrec_fast::packed_attention", mutates_args=())
def _packed_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    indptr: torch.Tensor,
    users: torch.Tensor,
    p: float,
    seed: int,
    epoch: int,
    stream: int,
    impl: str = "cpp",
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, softmax [2, T, heads], float32: each query's largest score, 1 / its exponentials' sum).

    The gradient has the weights again from softmax, bit for bit and without a logarithm.
    """
    if impl == "triton":
        from pdrec_fast.kernels.triton.packed import packed_attention as kernels

        indptr, users = on_device(q, indptr, users)
        return kernels.packed_attention(q, k, v, indptr, users, p, seed, epoch, stream)
    out, softmax = q.new_empty(q.shape), q.new_empty((2, *q.shape[:2]))
    extension.packed_attention(
        _rows(q),
        _rows(k),
        _rows(v),
        *cpp_arguments(indptr, len(q), users, p, seed, epoch, stream),
        out.numpy(),
        softmax.numpy(),
        torch.get_num_threads(),
    )
    return out, softmax


@_packed_attention.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    indptr: torch.Tensor,
    users: torch.Tensor,
    p: float,
    seed: int,
    epoch: int,
    stream: int,
    impl: str = "cpp",
) -> tuple[torch.Tensor, torch.Tensor]:
    return q.new_empty(q.shape), q.new_empty((2, *q.shape[:2]), dtype=torch.float32)


@torch.library.custom_op("pdrec_fast::packed_attention_backward", mutates_args=())
def _packed_attention_backward(
    of_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    indptr: torch.Tensor,
    users: torch.Tensor,
    softmax: torch.Tensor,
    p: float,
    seed: int,
    epoch: int,
    stream: int,
    impl: str = "cpp",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k and v; weights and mask are computed again, not stored."""
    if impl == "triton":
        from pdrec_fast.kernels.triton.packed import packed_attention as kernels

        indptr, users = on_device(q, indptr, users)
        return kernels.packed_attention_backward(
            of_out, q, k, v, indptr, users, softmax, p, seed, epoch, stream
        )
    of_q, of_k, of_v = q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape)
    extension.packed_attention_backward(
        _rows(of_out),
        _rows(q),
        _rows(k),
        _rows(v),
        *cpp_arguments(indptr, len(q), users, p, seed, epoch, stream),
        softmax.detach().numpy(),
        of_q.numpy(),
        of_k.numpy(),
        of_v.numpy(),
        torch.get_num_threads(),
    )
    return of_q, of_k, of_v


@_packed_attention_backward.register_fake
def _(
    of_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    indptr: torch.Tensor,
    users: torch.Tensor,
    softmax: torch.Tensor,
    p: float,
    seed: int,
    epoch: int,
    stream: int,
    impl: str = "cpp",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape)


def _rows(x: torch.Tensor) -> Any:
    """As an array whose last dimension is adjacent in memory."""
    return (x if x.stride(-1) == 1 else x.contiguous()).detach().numpy()


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    q, k, v, indptr, users, *ctx.words = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, indptr, users, output[1])


def _backward(ctx: Any, of_out: torch.Tensor | None, _: None) -> tuple[torch.Tensor | None, ...]:
    if of_out is None:
        return (None,) * 10
    gradients = _packed_attention_backward(of_out.contiguous(), *ctx.saved_tensors, *ctx.words)
    return (*gradients, *(None,) * 7)


_packed_attention.register_autograd(_backward, setup_context=_setup_context)
# On a GPU no cast: autocast's linear layers gave q, k and v their dtype already, and the kernels
# sum in float32 whatever it is.
_packed_attention.register_autocast("cpu", torch.float32)
