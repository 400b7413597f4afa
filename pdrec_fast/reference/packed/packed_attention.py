"""``packed_attention`` in plain PyTorch."""

from __future__ import annotations

import math

import torch

from pdrec_fast.operands import PackedDropout
from pdrec_fast.reference.packed._dense import dense_batches, keep_mask


def packed_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, words: PackedDropout
) -> torch.Tensor:
    """See ``ops.packed.packed_attention``; the arguments are checked there."""
    outputs = [q[:0]]  # so that a batch without sequences needs no case of its own
    for tokens, first, n, length in dense_batches(words.indptr):
        queries, keys, values = (
            x[tokens].unflatten(0, (n, length)).transpose(1, 2) for x in (q, k, v)
        )
        scores = queries @ keys.mT / math.sqrt(q.shape[2])
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        if words.p > 0:
            keep = keep_mask(weights.shape, first, words)
            weights = weights * keep.to(weights) / (1 - words.p)
        outputs.append((weights @ values).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)
