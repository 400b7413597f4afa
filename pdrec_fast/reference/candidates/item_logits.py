"""Reference of ``ops.item_logits``: gathered rows, normalised and multiplied, differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def item_logits(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    similarity: str,
    temperature: float,
    bias: torch.Tensor | None = None,
    sparse_grad: bool = False,
) -> torch.Tensor:
    """[T, C] logits, -inf where ``items`` is -1; see ``ops.item_logits``."""
    present = items.clamp_min(0)
    rows = F.embedding(present, table, sparse=sparse_grad)
    if similarity == "cosine":
        states = F.normalize(states, dim=-1) * temperature
        rows = F.normalize(rows, dim=-1)
    logits = (rows @ states.unsqueeze(-1)).squeeze(-1)
    if bias is not None:
        logits = logits + bias[present]
    return logits.masked_fill(items < 0, -torch.inf)
