"""PDRec's objective (paper, eqs. 4 to 6), and another ranking loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch

from pdrec_fast.deprecation import renamed_keywords
from pdrec_fast.ops.candidates.item_logits import item_logits
from pdrec_fast.ops.candidates.sampled_softmax import sampled_softmax
from pdrec_fast.ops.candidates.weighted_bce import weighted_bce
from pdrec_fast.training.config import Loss


@dataclass(frozen=True)
class Objective:
    """The losses of states against the items of a table.

    Attributes:
        similarity, temperature: how states and items make logits, see ``item_logits``.
        sparse_grad: give the table's gradient as a sparse tensor, see ``weighted_bce``.
        impl: of ``weighted_bce``, ``sampled_softmax`` and ``item_logits``.
        loss: of the ranking, ``"bce"`` or ``"softmax"``.

    Raises:
        ValueError: an unknown loss.
    """

    similarity: str
    temperature: float
    sparse_grad: bool = False
    impl: str = "auto"
    loss: str = "bce"

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise ValueError(f"loss={self.loss!r}: choose one of {get_args(Loss)}")

    def logits(
        self, states: torch.Tensor, table: torch.Tensor, items: torch.Tensor
    ) -> torch.Tensor:
        """Logits [B, C] of candidate items [B, C], without gradient; see ``item_logits``."""
        return item_logits(
            states,
            table,
            items,
            similarity=self.similarity,
            temperature=self.temperature,
            impl=self.impl,
        )

    @renamed_keywords(items="candidates")
    def ranking(
        self,
        states: torch.Tensor,
        table: torch.Tensor,
        candidates: torch.Tensor,
        weights: torch.Tensor | None = None,
        count: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """L_R: with ``loss="bce"`` eq. 4, ``mean(w * -log σ(s+)) + mean(-log(1 - σ(s-)))``; with
        ``"softmax"`` ``mean(w * -log(exp(s+) / (exp(s+) + sum exp(s-))))``.

        The sums of eq. 4 are taken as means over the positives and over all negatives, as the
        authors' code does, so that the two sides weigh the same for any number of negatives.

        Args:
            states: [T, d].
            table: [N, d], embeddings of the items.
            candidates: int64 [T, 1 + k] items: the observed next one, then the negatives.
            weights: [T] HBR weights; None weighs every positive 1.
            count: int64 [], how many tokens count, the first ones; None for all.

        Returns:
            [], in the dtype of ``states``.
        """
        n_tokens, n_candidates = candidates.shape
        if count is None:
            share = states.new_full((n_tokens,), 1 / max(n_tokens, 1))
        else:
            counts = torch.arange(n_tokens, device=states.device) < count
            share = counts.to(states.dtype) / count.clamp_min(1)
        positive_shares = share if weights is None else share * weights
        if self.loss == "softmax":
            return sampled_softmax(states, table, candidates, positive_shares, **self._settings)
        shares = (share / max(n_candidates - 1, 1))[:, None].repeat(1, n_candidates)
        shares[:, 0] = positive_shares
        return weighted_bce(states, table, candidates, shares, 1, **self._settings)

    @renamed_keywords(candidates="soft_positives")
    def distillation(
        self, states: torch.Tensor, table: torch.Tensor, soft_positives: torch.Tensor, top_n: int
    ) -> torch.Tensor:
        """L_D (eq. 5): ``mean(-log σ(s))`` over each user's n soft positives of the highest logits.

        This is the self-distillation of DPA: of the items that the diffusion proposes, those count
        that the encoder itself ranks first.

        Args:
            states: [B, d], each user's last.
            table: [N, d].
            soft_positives: int64 [B, m] items, -1 where there is none.
            top_n: n.

        Returns:
            [], in the dtype of ``states``.
        """
        logits = self.logits(states, table, soft_positives)
        best = logits.argsort(dim=1, descending=True, stable=True)[:, :top_n]
        items = soft_positives.gather(1, best)
        present = items >= 0
        shares = present / present.sum().clamp_min(1)
        shares = shares.to(states.dtype)
        return weighted_bce(states, table, items, shares, items.shape[1], **self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "similarity": self.similarity,
            "temperature": self.temperature,
            "sparse_grad": self.sparse_grad,
            "impl": self.impl,
        }
