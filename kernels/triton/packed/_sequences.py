"""What kernels on packed sequences share: their share of the tokens, and their random words.

A program works on one block of one sequence. Program ``slot`` serves sequence b from slot
``start_b // BLOCK + b`` on: these numbers rise by at least ``ceil(length / BLOCK)`` from one
sequence to the next, so ``total // BLOCK + B`` slots are enough, a count that the host knows from
shapes alone. No longest length, prefix sum or copy to the host is needed; at most one slot a
sequence has nothing to do, and a long sequence takes no longer than its blocks side by side.
A block never mixes sequences, so that neither rounding nor NaN reaches from one to another.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from pdrec_fast.operands import PackedDropout

FAN = 128
"""Offsets that one step of the search compares; two steps find one of 16,384 sequences."""

NOT_SPECIALIZED = ("n_sequences", "keep_from", "seed", "epoch", "rng_stream", "inverse")
"""They change from call to call, and compiling anew for some of their values gains nothing."""


def n_slots(total: int, n_sequences: int, block: int) -> int:
    """Programs for ``n_sequences`` of ``total`` tokens (or elements) in all."""
    return total // block + n_sequences


def search(n_sequences: int) -> dict[str, int]:
    """The arguments of ``locate``'s search."""
    levels = 1
    while FAN**levels < n_sequences:
        levels += 1
    return {"FAN": FAN, "LEVELS": levels}


def word_arguments(words: PackedDropout) -> dict[str, Any]:
    """The kernels' arguments of these names; a launch takes none called ``stream``."""
    return {
        "keep_from": words.keep_from,
        "keep_scale": words.keep_scale,
        "seed": words.seed,
        "epoch": words.epoch,
        "rng_stream": words.stream,
    }


@triton.jit
def locate(
    slot,
    indptr,
    n_sequences,
    PER_TOKEN: tl.constexpr,
    BLOCK: tl.constexpr,
    FAN: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """(sequence, its first element, its length, where the slot's block begins within it)."""
    sequence = slot * 0
    for level in tl.static_range(LEVELS):
        step = FAN ** (LEVELS - 1 - level)
        tried = sequence + tl.arange(0, FAN) * step
        start = tl.load(indptr + tried, mask=tried < n_sequences, other=0) * PER_TOKEN
        reached = (tried < n_sequences) & (start // BLOCK + tried <= slot)
        sequence += (tl.sum(reached.to(tl.int32), 0) - 1) * step
    first = tl.load(indptr + sequence) * PER_TOKEN
    length = (tl.load(indptr + sequence + 1) * PER_TOKEN - first).to(tl.int32)
    begin = (slot - (first // BLOCK + sequence)).to(tl.int32) * BLOCK
    return sequence, first, length, begin


@triton.jit
def draw(block, user, seed, epoch, stream):
    """The words of int32 Philox blocks [..., n], in their order: uint32 [..., 4 n]."""
    zero = (block * 0).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(
        seed,
        block,
        zero + user.to(tl.uint32),
        zero + epoch.to(tl.uint32),
        zero + stream.to(tl.uint32),
    )
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
