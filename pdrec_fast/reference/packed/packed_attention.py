"""``packed_attention`` in plain PyTorch: neighbours of equal length as one dense batch."""

from __future__ import annotations

import math

import torch

from pdrec_fast.operands import PackedDropout
from pdrec_fast.reference.counter_rng import ragged_words


def packed_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, words: PackedDropout
) -> torch.Tensor:
    """See ``ops.packed.packed_attention``; the arguments are checked there."""
    outputs = [q[:0]]  # so that a batch without sequences needs no case of its own
    lengths, counts = words.indptr.diff().unique_consecutive(return_counts=True)
    at = sequence = 0
    for length, n in zip(lengths.tolist(), counts.tolist(), strict=True):
        tokens = slice(at, at + n * length)
        queries, keys, values = (
            x[tokens].unflatten(0, (n, length)).transpose(1, 2) for x in (q, k, v)
        )
        scores = queries @ keys.mT / math.sqrt(q.shape[2])
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        if words.p > 0:
            keep = _keep_mask(weights.shape, sequence, words)
            weights = weights * keep.to(weights) / (1 - words.p)
        outputs.append((weights @ values).transpose(1, 2).flatten(0, 1))
        at, sequence = tokens.stop, sequence + n
    return torch.cat(outputs)


def _keep_mask(shape: torch.Size, first: int, words: PackedDropout) -> torch.Tensor:
    """Bool [n, heads, L, L] of the sequences from ``first`` on; every row begins a new block of
    words."""
    n, heads, length, _ = shape
    row_words = -(-length // 4) * 4
    n_words = torch.full((n,), heads * length * row_words)
    users = words.users[first : first + n]
    word = ragged_words(words.seed, words.epoch, users, n_words, words.stream)
    return word.view(n, heads, length, row_words)[..., :length] >= words.keep_from
