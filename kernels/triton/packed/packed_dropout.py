"""Dropout of packed sequences: one read and one write of every element.

Memory bounds it in float32, and drawing words as much in bfloat16 (docs/performance.md). Hence no
word is drawn twice: a thread's four words serve four adjacent elements, and blocks begin at a
sequence's first element, where its words begin. 1,024 elements are 16 tokens of width 64: the mean
sequence fills one block, and each of 128 threads draws twice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast.kernels.triton.packed._sequences import (
    NOT_SPECIALIZED,
    draw,
    locate,
    n_slots,
    search,
    word_arguments,
)
from pdrec_fast.operands import PackedDropout

CONFIGS = ((1024, 4), (512, 4), (2048, 4), (2048, 8))
"""(block, num_warps) worth trying; the first is the default."""


def packed_dropout(
    x: torch.Tensor,
    words: PackedDropout,
    *,
    block: int = CONFIGS[0][0],
    num_warps: int = CONFIGS[0][1],
) -> torch.Tensor:
    """``x * keep / (1 - p)`` for x [T, width]; the words are those of ``ops.packed_dropout``."""
    x, out = x.contiguous(), x.new_empty(x.shape)
    if not x.numel():
        return out
    n_sequences = len(words.users)
    with torch.cuda.device_of(x):
        _dropout[(n_slots(x.numel(), n_sequences, block),)](
            x,
            out,
            words.indptr,
            words.users,
            n_sequences,
            **word_arguments(words),
            **search(n_sequences),
            WIDTH=x.shape[1],
            BLOCK=block,
            num_warps=num_warps,
        )
    return out


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _dropout(
    x,
    out,
    indptr,
    users,
    n_sequences,
    keep_from,
    keep_scale,
    seed,
    epoch,
    rng_stream,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    FAN: tl.constexpr,
    LEVELS: tl.constexpr,
):
    slot = tl.program_id(0)
    sequence, first, size, begin = locate(slot, indptr, n_sequences, WIDTH, BLOCK, FAN, LEVELS)
    if begin >= size:
        return
    element = begin + tl.arange(0, BLOCK)
    values = tl.load(x + first + element, mask=element < size, other=0.0).to(tl.float32)
    user = tl.load(users + sequence)
    word = draw(begin // 4 + tl.arange(0, BLOCK // 4), user, seed, epoch, rng_stream)
    values = tl.where(word >= keep_from.to(tl.uint32), values * keep_scale, 0.0)
    tl.store(out + first + element, values.to(out.dtype.element_ty), mask=element < size)
