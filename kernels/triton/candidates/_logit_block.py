"""A block of products of tokens' states with items that all tokens share, which losses turn into
exponentials in place: a program takes a token's row, some columns at a time."""

from __future__ import annotations

import triton
import triton.language as tl

from pdrec_fast.kernels.triton.candidates._tiles import norm_at_least_eps

COLUMNS = 1024  # that a program holds at a time
WARPS = 4


@triton.jit
def row_scale(state_squares, temperature, COSINE: tl.constexpr):
    """What makes a product of a state with a normalised item a logit; of the squares' shape."""
    if COSINE:
        return tl.div_rn(temperature, norm_at_least_eps(state_squares))
    else:
        return tl.full(state_squares.shape, 1.0, tl.float32)


@triton.jit
def counted(products, scale, offsets, is_left_out):
    """Logits, -inf where a column is left out."""
    return tl.where(is_left_out, float("-inf"), products * scale + offsets)


@triton.jit
def exponentials(products, scale, offsets, is_left_out, shift):
    """(exp(logit - shift); these times the logits without their offsets)."""
    values = tl.exp(counted(products, scale, offsets, is_left_out) - shift)
    return values, tl.where(is_left_out, 0.0, values * (products * scale))
