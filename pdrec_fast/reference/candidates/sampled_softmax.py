"""Reference of ``ops.sampled_softmax``: torch's cross-entropy of the logits, with its gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pdrec_fast.operands import Candidates, Similarity
from pdrec_fast.reference.candidates.item_logits import item_logits


def sampled_softmax(
    candidates: Candidates, weights: torch.Tensor, similarity: Similarity, sparse_grad: bool = False
) -> torch.Tensor:
    """The loss, of the dtype of the states; see ``ops.sampled_softmax``."""
    positives = candidates.items[:, 0]
    unpaired = positives < 0
    logits = item_logits(candidates, similarity, sparse_grad=sparse_grad)
    # A row without its positive has no finite loss; a constant one has no gradient either.
    logits = logits.masked_fill(unpaired[:, None], 0)
    losses = F.cross_entropy(logits, torch.zeros_like(positives).long(), reduction="none")
    return (losses * weights.detach().masked_fill(unpaired, 0)).sum()
