"""Dropout of the tokens of packed sequences, from counter-based random numbers."""

from __future__ import annotations

from typing import Any

import torch

from pdrec_fast.build_info import extension
from pdrec_fast.operands import PackedDropout
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.ops.packed._sequences import (
    DropoutKey,
    cpp_arguments,
    offsets,
    packed_dropout_of,
)
from pdrec_fast.ops.packed._triton import offered, on_device
from pdrec_fast.reference.packed import packed_dropout as reference


def packed_dropout(
    x: torch.Tensor,
    indptr: torch.Tensor,
    p: float,
    *,
    key: DropoutKey | None,
    stream: int,
    impl: str = "auto",
) -> torch.Tensor:
    """``x * keep / (1 - p)``, keep being 1 with probability 1 - p (Srivastava et al., 2014).

    Element (place, column) of a sequence takes word ``place * width + column`` of the stream
    (seed, epoch, user, stream), places counted from 0 within the sequence; it is kept where that
    word is at least ``round(p * 2**32)``. Differentiable in ``x``.

    Args:
        x: [T, width], float32 (any floating dtype for the reference).
        indptr: int64 [B + 1]; sequence b has the tokens ``indptr[b]:indptr[b + 1]``; checked where
            it is on the host, taken as it is on a GPU.
        p: in [0, 1); 0 returns ``x``.
        key: whose random numbers; may be None where p is 0.
        stream: of the random generator, in 0 .. 2**32 - 1; one for each place in a model.
        impl: ``"auto"``, ``"triton"`` (float32 and bfloat16 on a GPU, computed in float32),
            ``"cpp"`` (float32 on the CPU) or ``"reference"``; the same elements are kept in all.

    Returns:
        [T, width].

    Raises:
        ValueError: an argument is out of its range, or shapes do not fit.
        BackendError: the named implementation cannot run here.
    """
    if x.ndim != 2:
        raise ValueError(f"x must have shape [T, width], got {tuple(x.shape)}")
    words = packed_dropout_of(indptr, p, key, stream)
    chosen = choose("packed_dropout", impl, offered(x))
    if p == 0:
        return x
    if chosen == "reference":
        offsets(indptr, len(x))
        return reference.packed_dropout(x, words)
    return _packed_dropout(x, words, chosen)


@operation(
    fake=lambda a: a.x.new_empty(a.x.shape),
    # The C++ kernel knows no other type. On a GPU x keeps its own, as with torch's dropout.
    autocast={"cpu": torch.float32},
)
def _packed_dropout(x: torch.Tensor, words: PackedDropout, impl: str = "cpp") -> torch.Tensor:
    if impl == "triton":
        from pdrec_fast.kernels.triton.packed import packed_dropout as kernels

        return kernels.packed_dropout(x.detach(), on_device(x, words))
    out = x.new_empty(x.shape)
    extension.packed_dropout(
        x.detach().contiguous().numpy(),
        cpp_arguments(len(x), words),
        out.numpy(),
        torch.get_num_threads(),
    )
    return out


@_packed_dropout.gradient(of=["x"], saves=["words", "impl"])
def _(saved: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor]:
    return (_packed_dropout(grad_out.contiguous(), saved.words, saved.impl),)
