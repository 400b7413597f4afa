"""A ranking loss with negatives that the batch shares, ``shared_softmax``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from bench.ops.candidates._blocks import BEAUTY, TOKENS, TOY, block_loss_case
from bench.ops.candidates._candidates import COSINE, candidate_inputs
from bench.registry import Case, operation
from bench.target import target
from pdrec_fast.ops.candidates.shared_softmax import shared_softmax

_SHAPE = {"tokens": TOKENS, "negatives": 1_024}
_LARGE = {"tokens": 2**17, "negatives": 1_024}


def _case(tokens: int, negatives: int, items: int, width: int, precision: str) -> Case:
    """A batch's ranking loss of each positive among the same negatives, forward and backward."""

    def plain(
        states: torch.Tensor,
        table: torch.Tensor,
        positives: torch.Tensor,
        negatives: torch.Tensor,
        offsets: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        states = F.normalize(states, dim=-1)
        rows = F.normalize(table[negatives], dim=-1).to(states.dtype)
        own = (states * F.normalize(table[positives[:, 0]], dim=-1)).sum(dim=1, keepdim=True)
        shared = (states @ rows.T).float() * COSINE.temperature + offsets
        shared = shared.masked_fill(positives == negatives, -torch.inf)
        logits = torch.cat([own.float() * COSINE.temperature, shared], dim=1)
        return -(weights * logits.log_softmax(dim=1)[:, 0]).sum()

    states, table, positives = candidate_inputs(tokens, 1, items, width, precision)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(items, (negatives,), generator=generator)
    offsets = torch.full((negatives,), math.log(items / negatives))
    weights = torch.rand(tokens, generator=generator)
    others = (x.to(target().device) for x in (drawn, offsets, weights))
    given = (states, table), (positives, *others), negatives
    return block_loss_case(shared_softmax, plain, *given, sparse_grad=True)


_SMALL = {"tokens": 7, "negatives": 5, "items": 31, "width": 9, "precision": "fp32"}


@operation(
    "shared_softmax",
    "kernel",
    small=_SMALL,
    sizes={**_SHAPE, **TOY, "precision": "fp32"},
    gpu_sizes=(
        {**_LARGE, **TOY, "precision": "bf16"},
        {**_LARGE, **TOY, "precision": "fp32"},
        {**_SHAPE, **TOY, "precision": "fp32"},
    ),
    check_at_size=True,
)
def toy(tokens: int, negatives: int, items: int, width: int, precision: str) -> Case:
    return _case(tokens, negatives, items, width, precision)


def _further(name: str, shape: dict[str, int], precision: str) -> None:
    sizes = {**_SHAPE, **shape, "precision": precision}
    small = {**_SMALL, "precision": precision}
    operation(name, "kernel", small=small, sizes=sizes, check_at_size=True)(_case)


_further("shared_softmax bf16", TOY, "bf16")
_further("shared_softmax beauty", BEAUTY, "fp32")
_further("shared_softmax beauty bf16", BEAUTY, "bf16")
