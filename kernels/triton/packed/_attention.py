"""What kernels of attention within packed sequences share: tiles, products and kept weights."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.operands import operand
from pdrec_fast.kernels.triton.packed._sequences import draw


def adjacent(**tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    """These tensors, adjacent in memory along the last dimension."""
    return {name: x if x.stride(-1) == 1 else x.contiguous() for name, x in tensors.items()}


def strides_of(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """The kernels' arguments of these names; 0 of a tensor that is not there."""
    strides = {}
    for name in ("q", "k", "v", "grad_out"):
        token, head, _ = tensors[name].stride() if name in tensors else (0, 0, 0)
        strides |= {f"{name}_token": token, f"{name}_head": head}
    return strides


@triton.jit
def load_tile(base, row, n_rows, stride, WIDTH: tl.constexpr, BLOCK_E: tl.constexpr):
    """Rows [len(row), BLOCK_E], zero beyond ``n_rows`` and ``WIDTH``."""
    column = tl.arange(0, BLOCK_E)
    inside = (row[:, None] < n_rows) & (column[None, :] < WIDTH)
    return tl.load(base + row[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def store_tile(base, row, n_rows, stride, values, WIDTH: tl.constexpr, BLOCK_E: tl.constexpr):
    column = tl.arange(0, BLOCK_E)
    inside = (row[:, None] < n_rows) & (column[None, :] < WIDTH)
    at = base + row[:, None] * stride + column[None, :]
    tl.store(at, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def kept_weights(
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
def dot(a, b, PRECISION: tl.constexpr):
    """a b in float32, a rounded to the type of b."""
    return tl.dot(operand(a.to(b.dtype)), operand(b), input_precision=PRECISION)


@triton.jit
def exp(x):
    return tl.exp2(x * 1.4426950408889634)
