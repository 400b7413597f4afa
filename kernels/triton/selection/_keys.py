# mypy: disallow-untyped-defs=False
"""Scores and items as one number to sort by, and what else is packed into bits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _flip(bits):
    """The bits of a float32 as an int32 of the same order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _rising(scores):
    """int32 that rises with the score, the same for -0 and +0."""
    return _flip((scores + 0.0).to(tl.int32, bitcast=True))


@triton.jit
def pack_key(scores, items):
    """int64 that sorts as the items do: by descending score, equal scores by ascending item."""
    return ((~_rising(scores)).to(tl.int64) << 32) | items.to(tl.int64)


def unpack_key(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(float32 scores, int32 items) of keys."""
    rising = (~(keys >> 32)).int()
    scores = (rising ^ ((rising >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return scores, (keys & 0xFFFFFFFF).int()


@triton.jit
def pack_31_bits(scores):
    """A number of 31 bits that rises with the score; its lowest bit is lost."""
    return (_rising(scores) >> 1) + (1 << 30)


@triton.jit
def unpack_31_bits(numbers, lowest_bit):
    """The score of a number of ``pack_31_bits``, with another lowest bit."""
    return _flip(((numbers - (1 << 30)) << 1) | lowest_bit).to(tl.float32, bitcast=True)


@triton.jit
def place_of_bit(bits):
    """Where the one bit of each word is: in the exponent of the float32."""
    exponent = bits.to(tl.float32).to(tl.int32, bitcast=True) >> 23
    return (exponent & 0xFF) - 127


@triton.jit
def count_bits(words):
    """How many bits of each word are set."""
    words -= (words >> 1) & 0x55555555
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    words += words >> 8
    return (words + (words >> 16)) & 0x3F
