"""``biased_attention`` in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pdrec_fast.operands import AttentionBiases, PackedDropout
from pdrec_fast.reference.packed._dense import dense_batches, keep_mask


def biased_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    words: PackedDropout,
    biases: AttentionBiases,
    pointwise: bool,
) -> torch.Tensor:
    """See ``ops.packed.biased_attention``; the arguments are checked there."""
    outputs = [q[:0]]  # so that a batch without sequences needs no case of its own
    for tokens, first, n, length in dense_batches(words.indptr):
        queries, keys, values = (
            x[tokens].unflatten(0, (n, length)).transpose(1, 2) for x in (q, k, v)
        )
        times = biases.times
        times = None if times is None else times[tokens].unflatten(0, (n, length))
        scores = queries @ keys.mT * (1.0 if pointwise else q.shape[2] ** -0.5)
        scores = scores + score_bias(biases, times, length, scores)
        weights = _weights(scores, pointwise)
        if words.p > 0:
            keep = keep_mask(weights.shape, first, words)
            weights = weights * keep.to(weights) / (1 - words.p)
        outputs.append((weights @ values).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


def score_bias(
    biases: AttentionBiases, times: torch.Tensor | None, length: int, like: torch.Tensor
) -> torch.Tensor:
    """What is added to the scores of rows with times [n, L]: [L, L] or [n, 1, L, L], of the dtype
    and device of ``like``."""
    bias = like.new_zeros((length, length))
    if biases.distance is not None:
        order = torch.arange(length, device=like.device)
        distance = (order.unsqueeze(1) - order).clamp(0, biases.distance.shape[0] - 1)
        bias = bias + _looked_up(biases.distance.to(like.dtype), distance)
    if biases.time is not None:
        assert times is not None
        assert biases.begins is not None
        between = (times.unsqueeze(2) - times.unsqueeze(1)).abs()
        bucket = bucket_of(between, biases.begins)
        bias = bias + _looked_up(biases.time.to(like.dtype), bucket).unsqueeze(1)
    return bias


def bucket_of(between: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
    """The last bucket whose beginning each of these times has reached, int64."""
    return torch.bucketize(between, begins, right=True) - 1


def _weights(scores: torch.Tensor, pointwise: bool) -> torch.Tensor:
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    if not pointwise:
        return scores.masked_fill(later, -torch.inf).softmax(-1)
    n_keys = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
    return F.silu(scores).masked_fill(later, 0.0) / n_keys.unsqueeze(1)


def _looked_up(values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """``values[indices]``, whose gradient does not depend on the number of threads."""
    return F.embedding(indices, values.unsqueeze(1)).squeeze(-1)
