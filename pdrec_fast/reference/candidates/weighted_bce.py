"""Reference of ``ops.weighted_bce``: the sums of eqs. 4 and 5, with autograd's gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pdrec_fast.reference.candidates.item_logits import item_logits


def weighted_bce(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    weights: torch.Tensor,
    n_positives: int,
    similarity: str,
    temperature: float,
    sparse_grad: bool = False,
) -> torch.Tensor:
    """The loss, of the dtype of ``states``; see ``ops.weighted_bce``."""
    absent = items < 0
    logits = item_logits(
        states, table, items, similarity, temperature, sparse_grad=sparse_grad
    ).masked_fill(absent, 0)
    losses = F.softplus(
        torch.cat([-logits[:, :n_positives], logits[:, n_positives:]], dim=1), threshold=40
    )
    return (losses * weights.detach().masked_fill(absent, 0)).sum()
