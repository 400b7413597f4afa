"""A ranking loss of candidate items, ``sampled_softmax``."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.ops.candidates._candidates import COSINE, candidate_inputs, loss_case, loss_sizes
from bench.padded import logits
from bench.registry import Case, operation
from pdrec_fast.ops.candidates.sampled_softmax import sampled_softmax


@operation("sampled_softmax", "kernel", **loss_sizes(candidates=17))
def softmax(tokens: int, candidates: int, items: int, width: int, precision: str) -> Case:
    """A batch's ranking loss of each positive among its negatives, forward and backward."""

    def plain(
        states: torch.Tensor, table: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        scores = logits(COSINE, states, F.embedding(chosen, table))
        return -(weights * scores.log_softmax(dim=1)[:, 0]).sum()

    weights = torch.rand(tokens, generator=torch.Generator().manual_seed(1))
    inputs = candidate_inputs(tokens, candidates, items, width, precision)
    return loss_case(sampled_softmax, plain, inputs, weights)
