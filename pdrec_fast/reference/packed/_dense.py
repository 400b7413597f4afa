"""Neighbours of equal length as one dense batch, for references of attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pdrec_fast.operands import PackedDropout
from pdrec_fast.reference.counter_rng import ragged_words


def dense_batches(indptr: torch.Tensor) -> Iterator[tuple[slice, int, int, int]]:
    """(tokens, first sequence, number of sequences, length) of neighbours of equal length."""
    lengths, counts = indptr.diff().unique_consecutive(return_counts=True)
    at = sequence = 0
    for length, n in zip(lengths.tolist(), counts.tolist(), strict=True):
        tokens = slice(at, at + n * length)
        yield tokens, sequence, n, length
        at, sequence = tokens.stop, sequence + n


def keep_mask(shape: torch.Size, first: int, words: PackedDropout) -> torch.Tensor:
    """Bool [n, heads, L, L] of the sequences from ``first`` on; every row begins a new block of
    words."""
    n, heads, length, _ = shape
    row_words = -(-length // 4) * 4
    n_words = torch.full((n,), heads * length * row_words)
    users = words.users[first : first + n]
    word = ragged_words(words.seed, words.epoch, users, n_words, words.stream)
    return word.view(n, heads, length, row_words)[..., :length] >= words.keep_from
