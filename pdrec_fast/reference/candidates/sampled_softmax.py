"""Reference of ``ops.sampled_softmax``: torch's cross-entropy of the logits, with its gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pdrec_fast.reference.candidates.item_logits import item_logits


def sampled_softmax(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    weights: torch.Tensor,
    similarity: str,
    temperature: float,
    sparse_grad: bool = False,
) -> torch.Tensor:
    """The loss, of the dtype of ``states``; see ``ops.sampled_softmax``."""
    unpaired = items[:, 0] < 0
    logits = item_logits(states, table, items, similarity, temperature, sparse_grad=sparse_grad)
    # A row without its positive has no finite loss; a constant one has no gradient either.
    logits = logits.masked_fill(unpaired[:, None], 0)
    losses = F.cross_entropy(logits, torch.zeros_like(items[:, 0]).long(), reduction="none")
    return (losses * weights.detach().masked_fill(unpaired, 0)).sum()
