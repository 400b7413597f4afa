"""A ranking loss of candidate items, ``weighted_bce``."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from bench.ops.candidates._candidates import COSINE, candidate_inputs, loss_case, loss_sizes
from bench.padded import logits
from bench.registry import Case, operation
from pdrec_fast.ops.candidates.weighted_bce import weighted_bce


@operation("weighted_bce", "kernel", **loss_sizes(candidates=3))
def bce(tokens: int, candidates: int, items: int, width: int, precision: str) -> Case:
    """A batch's ranking loss, one positive and the rest negatives, forward and backward."""

    def plain(
        states: torch.Tensor, table: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        scores = logits(COSINE, states, F.embedding(chosen, table))
        signed = torch.cat([-scores[:, :1], scores[:, 1:]], dim=1)
        return (weights * F.softplus(signed)).sum()

    weights = torch.rand(tokens, candidates, generator=torch.Generator().manual_seed(1))
    inputs = candidate_inputs(tokens, candidates, items, width, precision)
    return loss_case(partial(weighted_bce, n_positives=1), plain, inputs, weights)
