"""The driver of ``shared_softmax`` and ``corpus_softmax``."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pdrec_fast.operands import Candidates, SharedNegatives, Similarity
from pdrec_fast.ops.candidates._checks import item_indices
from pdrec_fast.ops.dispatch import choose


def compute(
    name: str,
    reference: Callable[[], torch.Tensor],
    candidates: Candidates,
    shared: SharedNegatives | None,
    weights: torch.Tensor,
    similarity: Similarity,
    impl: str,
    *,
    sparse_grad: bool,
) -> torch.Tensor:
    """The loss by the chosen implementation; ``shared`` None stands for the corpus."""
    choose(name, impl, {"reference": None})
    item_indices(candidates.items.cpu(), len(candidates.table))
    if shared is not None:
        item_indices(shared.items.cpu()[:, None], len(candidates.table))
    return reference()
