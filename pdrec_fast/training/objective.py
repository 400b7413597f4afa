"""PDRec's objective (paper, eqs. 4 to 6), and other ranking losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch

from pdrec_fast.checks import check_ratios
from pdrec_fast.deprecation import renamed_keywords
from pdrec_fast.operands import SharedNegatives
from pdrec_fast.ops.candidates.corpus_softmax import corpus_softmax
from pdrec_fast.ops.candidates.item_logits import item_logits
from pdrec_fast.ops.candidates.sampled_softmax import sampled_softmax
from pdrec_fast.ops.candidates.shared_softmax import shared_softmax
from pdrec_fast.ops.candidates.weighted_bce import weighted_bce
from pdrec_fast.training.config import Loss


@dataclass(frozen=True)
class Objective:
    """The losses of states against the items of a table.

    Attributes:
        similarity, temperature: how states and items make logits, see ``item_logits``; a
            temperature that is a tensor [] gets a gradient.
        sparse_grad: give the table's gradient as a sparse tensor, see ``weighted_bce``.
        impl: of the losses' operations and ``item_logits``.
        loss: of the ranking, see ``ranking``.
        gbce_calibration: t of ``loss="gbce"``.

    Raises:
        ValueError: an unknown loss.
    """

    similarity: str
    temperature: float | torch.Tensor
    sparse_grad: bool = False
    impl: str = "auto"
    loss: str = "bce"
    gbce_calibration: float = 0.75

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise ValueError(f"loss={self.loss!r}: choose one of {get_args(Loss)}")
        check_ratios(self, "gbce_calibration")

    def logits(
        self, states: torch.Tensor, table: torch.Tensor, items: torch.Tensor
    ) -> torch.Tensor:
        """Logits [B, C] of candidate items [B, C], without gradient; see ``item_logits``."""
        return item_logits(
            states,
            table,
            items,
            similarity=self.similarity,
            temperature=self._number(),
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
        shared: SharedNegatives | None = None,
    ) -> torch.Tensor:
        """L_R, by ``loss``.

        ``"bce"``: eq. 4, ``mean(w * -log σ(s+)) + mean(-log(1 - σ(s-)))``. The sums are taken as
        means over the positives and over all negatives, as the authors' code does, so that the two
        sides weigh the same for any number of negatives.

        ``"gbce"`` (gSASRec; Petrov & Macdonald, RecSys 2023): of k negatives drawn among N - 1
        items, ``mean((β w * -log σ(s+) + sum(-log(1 - σ(s-)))) / (1 + k))`` with
        ``β = α (t (1 - 1/α) + 1/α)``, ``α = k / (N - 1)`` and t the ``gbce_calibration``: a
        sampled negative is more often one than it would be in the corpus, which makes plain BCE
        overconfident.

        ``"softmax"``: ``mean(w * -log(exp(s+) / (exp(s+) + sum exp(s-))))``, over the candidates;
        with ``"shared_softmax"`` the sum goes over those in ``shared`` as well, with
        ``"corpus_softmax"`` over all items alone.

        Args:
            states: [T, d].
            table: [N, d], embeddings of the items.
            candidates: int64 [T, 1 + k] items: the observed next one, then the negatives.
            weights: [T] HBR weights; None weighs every positive 1.
            count: int64 [], how many tokens count, the first ones; None for all.
            shared: needed by ``"shared_softmax"``, and of no other.

        Returns:
            [], float32, or float64 for such states.

        Raises:
            ValueError: ``"shared_softmax"`` without ``shared``, or no negative for a loss that has
                a positive's own alone.
        """
        n_tokens, n_candidates = candidates.shape
        if count is None:
            share = states.new_full((n_tokens,), 1 / max(n_tokens, 1))
        else:
            counts = torch.arange(n_tokens, device=states.device) < count
            share = counts.to(states.dtype) / count.clamp_min(1)
        positive_shares = share if weights is None else share * weights
        if n_candidates < 2 and self.loss in ("bce", "gbce", "softmax"):
            raise ValueError(
                f"loss={self.loss!r} needs negatives: candidates must be [T, 1 + k] with k >= 1, "
                f"got {list(candidates.shape)}"
            )
        given, settings = (states, table, candidates), self._settings
        if self.loss == "softmax":
            return sampled_softmax(*given, positive_shares, **settings)
        if self.loss == "shared_softmax":
            if shared is None:
                raise ValueError("loss='shared_softmax' needs the negatives of the batch: shared=")
            negatives, offsets = shared
            return shared_softmax(*given, negatives, offsets, positive_shares, **settings)
        if self.loss == "corpus_softmax":
            del settings["sparse_grad"]  # every item has a gradient
            return corpus_softmax(states, table, candidates[:, 0], positive_shares, **settings)
        n_negatives = max(n_candidates - 1, 1)
        if self.loss == "gbce":
            share = share / n_candidates
            power = self._gbce_power(n_negatives, len(table))
            positive_shares = positive_shares * (power / n_candidates)
        else:
            share = share / n_negatives
        shares = share[:, None].repeat(1, n_candidates)
        shares[:, 0] = positive_shares
        return weighted_bce(*given, shares, 1, **settings)

    def _gbce_power(self, n_negatives: int, n_items: int) -> float:
        """β: the power of a positive's probability."""
        sampled = min(n_negatives / max(n_items - 1, 1), 1.0)
        return sampled * (self.gbce_calibration * (1 - 1 / sampled) + 1 / sampled)

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
        shares = present.to(states.dtype) / present.sum().clamp_min(1)
        return weighted_bce(states, table, items, shares, items.shape[1], **self._settings)

    def _number(self) -> float:
        if isinstance(self.temperature, torch.Tensor):
            return float(self.temperature.detach())
        return self.temperature

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "similarity": self.similarity,
            "temperature": self.temperature,
            "sparse_grad": self.sparse_grad,
            "impl": self.impl,
        }
