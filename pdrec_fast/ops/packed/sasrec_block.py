"""A block of SASRec, attention and feed-forward layers, on packed sequences."""

from __future__ import annotations

from typing import Any

import torch

from pdrec_fast.build_info import extension
from pdrec_fast.operands import PackedDropout, SasrecBlock
from pdrec_fast.ops.arguments import autocast_dtype
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.ops.packed._sequences import (
    DropoutKey,
    cpp_arguments,
    cpp_problem,
    packed_dropout_of,
)
from pdrec_fast.ops.packed.packed_attention import packed_attention
from pdrec_fast.ops.packed.packed_dropout import packed_dropout
from pdrec_fast.random_keys import ENCODER
from pdrec_fast.reference.packed import sasrec_block as reference


def sasrec_block(
    x: torch.Tensor,
    indptr: torch.Tensor,
    block: SasrecBlock,
    *,
    heads: int = 1,
    dropout: float = 0.0,
    key: DropoutKey | None = None,
    stream: int = ENCODER,
    impl: str = "auto",
    parts: str = "auto",
) -> torch.Tensor:
    """``y + drop(W2 relu(drop(W1 y + b1)) + b2)`` with ``y = norm(u + Wo attention(Wq u + bq,
    Wk x + bk, Wv x + bv) + bo)`` and ``u = norm(x)``.

    The block of SASRec (Kang & McAuley, ICDM 2018, section III-B), in which queries alone are
    normalised, as in its authors' code. Attention is ``packed_attention`` with the random numbers
    of ``stream``, the dropouts are ``packed_dropout`` with those of the next two. Differentiable
    (once) in ``x`` and the block's parameters.

    Args:
        x: [T, d].
        indptr: int64 [B + 1]; sequence b has the tokens ``indptr[b]:indptr[b + 1]``.
        block: the parameters, of the dtype of ``x``.
        heads: of the attention; a divisor of d.
        dropout: p in [0, 1), of attention weights and feed-forward layers.
        key: whose random numbers; needed where p is not 0.
        stream: of the random generator, in 0 .. 2**32 - 3.
        impl: ``"auto"``, ``"cpp"`` (float32 on the CPU without autocast: one call forward, one
            backward), ``"layers"`` (torch's layers with ``packed_attention`` and
            ``packed_dropout``; on GPUs, under autocast and in other dtypes) or ``"reference"``.
        parts: the ``impl`` of ``packed_attention`` and ``packed_dropout`` in ``"layers"``.

    Returns:
        [T, d]. With ``"cpp"``, its bits and those of the gradients do not depend on the number of
        threads.

    Raises:
        ValueError: an argument is out of its range, or shapes do not fit.
        BackendError: the named implementation cannot run here.
    """
    _check_shapes(x, block, heads)
    words = packed_dropout_of(indptr, dropout, key, stream)
    chosen = _choose(x, impl)
    if chosen == "cpp":
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *block))
        return _sasrec_block(x, words, block, heads, keep)[0]
    parts = "reference" if chosen == "reference" else parts

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return packed_attention(
            q, k, v, indptr, dropout=dropout, key=key, stream=stream, impl=parts
        )

    def drop(x: torch.Tensor, offset: int) -> torch.Tensor:
        if not dropout:
            return x
        return packed_dropout(x, indptr, dropout, key=key, stream=stream + offset, impl=parts)

    return reference.sasrec_block(x, block, heads, attend, drop)


def _choose(x: torch.Tensor, impl: str) -> str:
    device = x.device.type
    autocast = autocast_dtype(device) is not None
    cpp = "autocast asks for products in half precision" if autocast else cpp_problem(x)
    offered = {"cpp": cpp, "layers": None, "reference": None}
    # On a GPU and under autocast torch's layers are the choice, not a stopgap to be warned of.
    if device != "cpu" or autocast:
        offered = {"layers": None, "cpp": cpp, "reference": None}
    return choose("sasrec_block", impl, offered)


def _check_shapes(x: torch.Tensor, block: SasrecBlock, heads: int) -> None:
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"x must have shape [T, d], got {tuple(x.shape)}")
    width = x.shape[1]
    if heads < 1 or width % heads:
        raise ValueError(f"heads={heads} must divide the width of x, {width}")
    for name, tensor in zip(SasrecBlock._fields, block, strict=True):
        rows = 3 * width if name in ("in_weight", "in_bias") else width
        shape = (rows, width) if name.endswith("weight") else (rows,)
        if tensor.shape != shape or tensor.device != x.device:
            raise ValueError(
                f"block.{name} must have shape {shape} and lie on {x.device}, got "
                f"{tuple(tensor.shape)} on {tensor.device}"
            )


@operation(fake=lambda a: _like_outputs(a.x, a.words, a.heads, a.keep))
def _sasrec_block(
    x: torch.Tensor, words: PackedDropout, block: SasrecBlock, heads: int, keep: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(out, and what the gradient needs besides the arguments, empty unless ``keep``)."""
    out, states, statistics, kept = outputs = _like_outputs(x, words, heads, keep)
    extension.sasrec_block(
        _array(x),
        [_array(p) for p in block],
        cpp_arguments(len(x), words),
        heads,
        reference.NORM_EPS,
        out.numpy(),
        states.numpy(),
        statistics.numpy(),
        kept.numpy(),
        torch.get_num_threads(),
    )
    return outputs


def _array(tensor: torch.Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


def _gradient_sizes(width: int) -> tuple[int, ...]:
    """Numbers of elements of a block's parameters."""
    square = width * width
    return (
        *(width, width, 3 * square, 3 * width, square, width),
        *(width, width, square, width, square, width),
    )


def _like_outputs(
    x: torch.Tensor, words: PackedDropout, heads: int, keep: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """out [T, d]; states [8 T d]: queries, attention's output, sum, its norm and hidden layer,
    [T, d] each, then queries, keys and values [T, 3 d]; statistics [(4 + 2 heads) T] of the norms
    and the attention; kept, uint8 [T, d]: whether the last dropout kept an element."""
    n_tokens = len(x) if keep else 0
    return (
        x.new_empty(x.shape),
        x.new_empty(8 * n_tokens * x.shape[1]),
        x.new_empty((4 + 2 * heads) * n_tokens),
        x.new_empty((n_tokens if words.p else 0, x.shape[1]), dtype=torch.uint8),
    )


@operation(
    fake=lambda a: (a.x.new_empty(a.x.shape), a.x.new_empty(sum(_gradient_sizes(a.x.shape[1]))))
)
def _sasrec_block_backward(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    words: PackedDropout,
    block: SasrecBlock,
    heads: int,
    states: torch.Tensor,
    statistics: torch.Tensor,
    kept: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(gradient of x, those of the parameters one after another)."""
    grad_x, gradients = x.new_empty(x.shape), x.new_empty(sum(_gradient_sizes(x.shape[1])))
    extension.sasrec_block_backward(
        _array(grad_out),
        _array(x),
        [_array(p) for p in block],
        cpp_arguments(len(x), words),
        heads,
        reference.NORM_EPS,
        _array(states),
        _array(statistics),
        _array(kept),
        grad_x.numpy(),
        gradients.numpy(),
        torch.get_num_threads(),
    )
    return grad_x, gradients


@_sasrec_block.gradient(
    of=["x", *SasrecBlock._fields],
    saves=["x", "words", "block", "heads"],
    outputs=[1, 2, 3],
    constant=[1, 2, 3],
)
def _(saved: Any, grad_out: torch.Tensor, *_: None) -> tuple[torch.Tensor, ...]:
    grad_x, flat = _sasrec_block_backward(
        grad_out.contiguous(), saved.x, saved.words, saved.block, saved.heads, *saved.outputs
    )
    gradients = flat.split(_gradient_sizes(saved.x.shape[1]))
    return grad_x, *(g.view(p.shape) for g, p in zip(gradients, saved.block, strict=True))
