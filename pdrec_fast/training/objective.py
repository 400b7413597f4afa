"""PDRec's objective (paper, eqs. 4 to 6) in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def item_logits(
    states: torch.Tensor, items: torch.Tensor, *, similarity: str, temperature: float
) -> torch.Tensor:
    """Logits of candidate items.

    Args:
        states: [..., d]; items: embeddings [..., k, d].
        similarity: ``"cosine"`` (times ``temperature``) or ``"dot"`` (temperature unused).

    Returns:
        [..., k].
    """
    if similarity == "cosine":
        states = F.normalize(states, dim=-1) * temperature
        items = F.normalize(items, dim=-1)
    return (items @ states.unsqueeze(-1)).squeeze(-1)


def ranking_loss(
    positive: torch.Tensor, negative: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """L_R (eq. 4): ``mean(w * -log σ(s+)) + mean(-log(1 - σ(s-)))``.

    The sums of eq. 4 are taken as means over the positives and over all negatives, as the authors'
    code does, so that the two sides weigh the same whatever the number of negatives.

    Args:
        positive: [T] logits of the observed next items.
        negative: [T, k] logits of the random and safe negatives.
        weights: [T] HBR weights; None weighs every positive 1.
    """
    losses = F.softplus(-positive)
    if weights is not None:
        losses = weights * losses
    return losses.mean() + F.softplus(negative).mean()


def distillation_loss(logits: torch.Tensor, candidates: torch.Tensor, top_n: int) -> torch.Tensor:
    """L_D (eq. 5): ``mean(-log σ(s))`` over each user's n best candidates by their own logits.

    The re-ranking is the self-distillation of DPA: of the candidates that the diffusion proposes,
    those count that the encoder itself ranks first.

    Args:
        logits: [B, m] of the candidates given the user's last state.
        candidates: int [B, m] item indices; -1 marks an absent candidate.
        top_n: n.
    """
    absent = candidates < 0
    order = (
        logits.detach().masked_fill(absent, -torch.inf).argsort(dim=1, descending=True, stable=True)
    )
    chosen = order[:, :top_n]
    losses = F.softplus(-logits.gather(1, chosen))
    present = ~absent.gather(1, chosen)
    return (losses * present).sum() / present.sum().clamp_min(1)
