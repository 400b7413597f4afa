# mypy: disallow-untyped-defs=False
"""Draws from pools that are given as bits.

A program serves one user. It takes 256 words of the generator at a time, names an item with each,
looks up its bit and stores those accepted behind the earlier ones: a running sum gives the places.
Pools of fewer than N / 64 items are listed first, one program and one pass over the bits each. What
it costs: ``docs/performance.md``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdrec_fast import random_keys
from pdrec_fast.operands import DrawKey

LIST_BELOW = 64
"""A pool that would not fill N this many times over is listed."""

NEGATIVES = tl.constexpr(random_keys.NEGATIVES)
_BLOCKS = 64  # of four words, in a step of a program
_ITEMS = 1024


@triton.jit
def _list_kernel(bits_ptr, listed_ptr, sizes_ptr, n_items, n_words, capacity, BLOCK: tl.constexpr):
    """The items of a row's pool, ascending, if there are at most ``capacity``."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(sizes_ptr + row) <= capacity:
        found = 0
        for first in range(0, n_items, BLOCK):
            items = first + tl.arange(0, BLOCK)
            word = tl.load(bits_ptr + row * n_words + items // 32, mask=items < n_items, other=0)
            held = (word >> (items % 32)) & 1
            place = found + tl.cumsum(held, axis=0) - 1
            at = listed_ptr + row * capacity + place
            tl.store(at, items, mask=(held != 0) & (place < capacity))
            found += tl.sum(held, axis=0)


@triton.jit(do_not_specialize=["seed", "epoch"])
def _draw_kernel(
    bits_ptr,
    listed_ptr,
    sizes_ptr,
    users_ptr,
    draws_ptr,
    n_items,
    n_words,
    capacity,
    n_draws,
    seed,
    epoch,
    BLOCKS: tl.constexpr,
):
    seed, epoch = seed.to(tl.uint64), epoch.to(tl.uint32)
    row = tl.program_id(0).to(tl.int64)
    size = tl.load(sizes_ptr + row)
    user = tl.load(users_ptr + row).to(tl.uint32)
    listed = size <= capacity
    n_listed = tl.where(listed, size, 0)  # a bound, since Triton 3.9 takes no scalar for a mask
    range_size = tl.where(listed, size, n_items).to(tl.uint64)
    found = tl.where(size > 0, 0, n_draws)
    block = 0
    while found < n_draws:
        blocks = block + tl.arange(0, BLOCKS)
        word0, word1, word2, word3 = tl.philox(seed, blocks, user, epoch, NEGATIVES)
        words = tl.interleave(tl.interleave(word0, word2), tl.interleave(word1, word3))
        words = words.to(tl.uint32, bitcast=True).to(tl.uint64)
        chosen = ((words * range_size) >> 32).to(tl.int32)
        of_list = tl.load(listed_ptr + row * capacity + chosen, mask=chosen < n_listed, other=0)
        items = tl.where(listed, of_list, chosen)
        word = tl.load(bits_ptr + row * n_words + items // 32)
        accepted = (word >> (items % 32)) & 1
        place = found + tl.cumsum(accepted, axis=0) - 1
        wanted = (accepted != 0) & (place < n_draws)
        tl.store(draws_ptr + row * n_draws + place, items, mask=wanted)
        found += tl.sum(accepted, axis=0)
        block += BLOCKS


def draw(
    bits: torch.Tensor,
    sizes: torch.Tensor,
    n_items: int,
    n_draws: int,
    key: DrawKey,
    *,
    any_listed: bool,
) -> torch.Tensor:
    """int32 [B, n_draws], as ``ops.selection.sample_pool`` defines them.

    Args:
        bits: int32 [B, ceil(N / 32)], the pools; bits beyond N are 0.
        sizes: int64 [B], of the pools; a row of 0 is left unwritten.
        any_listed: whether a size is less than N / 64.
    """
    draws = bits.new_empty((len(bits), n_draws))
    if not draws.numel():
        return draws
    n_words = bits.shape[1]
    capacity = (n_items - 1) // LIST_BELOW if any_listed else 0
    listed = bits.new_empty((len(bits), max(capacity, 1)))
    with torch.cuda.device_of(bits):
        if any_listed:
            _list_kernel[(len(bits),)](
                bits, listed, sizes, n_items, n_words, capacity, BLOCK=_ITEMS
            )
        _draw_kernel[(len(bits),)](
            bits, listed, sizes, key.users, draws, n_items, n_words, capacity, n_draws,
            key.seed, key.epoch, BLOCKS=_BLOCKS,
        )  # fmt: skip
    return draws
