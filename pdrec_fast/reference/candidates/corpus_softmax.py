"""Reference of ``ops.corpus_softmax``: the logits of all items, torch's cross-entropy of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pdrec_fast.operands import Candidates, Similarity


def corpus_softmax(
    candidates: Candidates, weights: torch.Tensor, similarity: Similarity
) -> torch.Tensor:
    """The loss, of the dtype of the states; see ``ops.corpus_softmax``. items: [T, 1]."""
    states, table, items = candidates
    positives = items[:, 0].long()
    if similarity.cosine:
        states, table = F.normalize(states, dim=-1) * similarity.scale, F.normalize(table, dim=-1)
    losses = F.cross_entropy(states @ table.T, positives.clamp_min(0), reduction="none")
    unpaired = positives < 0
    return (losses.masked_fill(unpaired, 0) * weights.detach().masked_fill(unpaired, 0)).sum()
