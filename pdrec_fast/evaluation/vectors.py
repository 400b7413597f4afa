"""Scorers whose scores are products, which a GPU makes and uses within one kernel."""

from __future__ import annotations

from typing import Protocol, TypeGuard

import torch

from pdrec_fast.data import Histories
from pdrec_fast.devices import off_cpu


class VectorScorer(Protocol):
    """A scorer whose scores are products: ``item_vectors[0] @ user_vector + item_vectors[1]``.

    Attributes:
        device: where its vectors are.
        has_user_vectors: whether its scores are products in its present settings.
    """

    device: torch.device
    has_user_vectors: bool

    def user_vectors(self, histories: Histories) -> torch.Tensor:
        """float [B, H]."""
        ...

    @property
    def item_vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(vectors [N, H], offsets [N])."""
        ...


def uses_vectors(scorer: object) -> TypeGuard[VectorScorer]:
    """Whether scores are made and consumed within one kernel: on a GPU, where they are products."""
    return off_cpu(scorer) and getattr(scorer, "has_user_vectors", False)
