"""Reference of ``ops.shared_softmax``: all logits side by side, torch's cross-entropy of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pdrec_fast.operands import Candidates, SharedNegatives, Similarity
from pdrec_fast.reference.candidates.item_logits import item_logits


def shared_softmax(
    candidates: Candidates,
    shared: SharedNegatives,
    weights: torch.Tensor,
    similarity: Similarity,
    sparse_grad: bool = False,
) -> torch.Tensor:
    """The loss, of the dtype of the states; see ``ops.shared_softmax``."""
    states, table, items = candidates
    positives = items[:, 0]
    own = item_logits(candidates, similarity, sparse_grad=sparse_grad)
    rows = F.embedding(shared.negatives, table, sparse=sparse_grad)
    if similarity.cosine:
        states, rows = F.normalize(states, dim=-1) * similarity.scale, F.normalize(rows, dim=-1)
    logits = states @ rows.T + shared.offsets.to(states.dtype)
    logits = logits.masked_fill(positives[:, None] == shared.negatives, -torch.inf)
    # A row without its positive has no finite loss; a constant one has no gradient either.
    unpaired = positives < 0
    logits = torch.cat([own, logits], dim=1).masked_fill(unpaired[:, None], 0)
    losses = F.cross_entropy(logits, torch.zeros_like(positives).long(), reduction="none")
    return (losses * weights.detach().masked_fill(unpaired, 0)).sum()
