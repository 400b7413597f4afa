"""Operands of matrix products, on a GPU and under Triton's interpreter."""

from __future__ import annotations

import os

import triton
import triton.language as tl

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def operand(x):
    """``x`` as ``tl.dot`` takes it: the interpreter's takes the bits of a bfloat16 for an integer,
    so it is given float32."""
    if _INTERPRETED:
        return x.to(tl.float32)
    else:
        return x
