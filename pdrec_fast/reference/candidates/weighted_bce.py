"""Reference of ``ops.weighted_bce``: the sums of eqs. 4 and 5, with autograd's gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pdrec_fast.operands import Candidates, Similarity
from pdrec_fast.reference.candidates.item_logits import item_logits


def weighted_bce(
    candidates: Candidates,
    weights: torch.Tensor,
    n_positives: int,
    similarity: Similarity,
    sparse_grad: bool = False,
) -> torch.Tensor:
    """The loss, of the dtype of the states; see ``ops.weighted_bce``."""
    absent = candidates.items < 0
    logits = item_logits(candidates, similarity, sparse_grad=sparse_grad).masked_fill(absent, 0)
    signed = torch.cat([-logits[:, :n_positives], logits[:, n_positives:]], dim=1)
    losses = F.softplus(signed, threshold=40)
    return (losses * weights.detach().masked_fill(absent, 0)).sum()
