"""PDRec's objective (paper, eqs. 4 to 6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pdrec_fast.ops.item_logits import item_logits
from pdrec_fast.ops.weighted_bce import weighted_bce


@dataclass(frozen=True)
class Objective:
    """The losses of states against the items of a table.

    Attributes:
        similarity, temperature: how states and items make logits, see ``item_logits``.
        sparse_grad: give the table's gradient as a sparse tensor, see ``weighted_bce``.
        impl: of ``weighted_bce`` and ``item_logits``.
    """

    similarity: str
    temperature: float
    sparse_grad: bool = False
    impl: str = "auto"

    def logits(
        self, states: torch.Tensor, table: torch.Tensor, items: torch.Tensor
    ) -> torch.Tensor:
        """Logits of candidate items, without gradient; see ``item_logits``."""
        return item_logits(
            states,
            table,
            items,
            similarity=self.similarity,
            temperature=self.temperature,
            impl=self.impl,
        )

    def ranking(
        self,
        states: torch.Tensor,
        table: torch.Tensor,
        items: torch.Tensor,
        weights: torch.Tensor | None = None,
        count: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """L_R (eq. 4): ``mean(w * -log σ(s+)) + mean(-log(1 - σ(s-)))``.

        The sums of eq. 4 are taken as means over the positives and over all negatives, as the
        authors' code does, so that the two sides weigh the same whatever the number of negatives.

        Args:
            states: [T, d].
            table: [N, d], embeddings of the items.
            items: int64 [T, 1 + k]: the observed next item, then the random and safe negatives.
            weights: [T] HBR weights; None weighs every positive 1.
            count: int64 [], how many tokens count, the first ones; None for all.
        """
        n_tokens, n_candidates = items.shape
        if count is None:
            shares = states.new_full(items.shape, 1 / max(n_tokens * (n_candidates - 1), 1))
            shares[:, 0] = 1 / max(n_tokens, 1)
        else:
            counts = torch.arange(n_tokens, device=states.device) < count
            share = counts.to(states.dtype) / count.clamp_min(1)
            shares = (share / max(n_candidates - 1, 1))[:, None].repeat(1, n_candidates)
            shares[:, 0] = share
        if weights is not None:
            shares[:, 0] *= weights
        return self._bce(states, table, items, shares, 1)

    def distillation(
        self, states: torch.Tensor, table: torch.Tensor, candidates: torch.Tensor, top_n: int
    ) -> torch.Tensor:
        """L_D (eq. 5): ``mean(-log σ(s))`` over each user's n best candidates by their own logits.

        The re-ranking is the self-distillation of DPA: of the candidates that the diffusion
        proposes, those count that the encoder itself ranks first.

        Args:
            states: [B, d], each user's last.
            table: [N, d].
            candidates: int64 [B, m] items; -1 marks an absent candidate.
            top_n: n.
        """
        logits = self.logits(states, table, candidates)
        best = logits.argsort(dim=1, descending=True, stable=True)[:, :top_n]
        items = candidates.gather(1, best)
        present = items >= 0
        shares = present / present.sum().clamp_min(1)
        return self._bce(states, table, items, shares.to(states.dtype), items.shape[1])

    def _bce(
        self,
        states: torch.Tensor,
        table: torch.Tensor,
        items: torch.Tensor,
        shares: torch.Tensor,
        n_positives: int,
    ) -> torch.Tensor:
        return weighted_bce(
            states,
            table,
            items,
            shares,
            n_positives,
            similarity=self.similarity,
            temperature=self.temperature,
            sparse_grad=self.sparse_grad,
            impl=self.impl,
        )
