"""Reference of ``ops.item_logits``: gathered rows, normalised and multiplied, differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pdrec_fast.operands import Candidates, Similarity


def item_logits(
    candidates: Candidates,
    similarity: Similarity,
    bias: torch.Tensor | None = None,
    *,
    sparse_grad: bool = False,
) -> torch.Tensor:
    """[T, C] logits, -inf where an item is -1; see ``ops.item_logits``."""
    states, table, items = candidates
    present = items.clamp_min(0)
    rows = F.embedding(present, table, sparse=sparse_grad)
    if similarity.cosine:
        states = F.normalize(states, dim=-1) * similarity.scale
        rows = F.normalize(rows, dim=-1)
    logits = (rows @ states.unsqueeze(-1)).squeeze(-1)
    if bias is not None:
        logits = logits + bias[present]
    return logits.masked_fill(items < 0, -torch.inf)
