"""A ranking loss over all items, ``corpus_softmax``."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.ops.candidates._blocks import BEAUTY, TOKENS, block_loss_case
from bench.ops.candidates._candidates import COSINE, candidate_inputs
from bench.registry import Case, operation
from bench.target import target
from pdrec_fast.ops.candidates.corpus_softmax import corpus_softmax


def _case(tokens: int, items: int, width: int, precision: str) -> Case:
    """A batch's ranking loss of each positive among all items, forward and backward."""

    def plain(
        states: torch.Tensor, table: torch.Tensor, positives: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        rows = F.normalize(table, dim=-1).to(states.dtype)
        logits = (F.normalize(states, dim=-1) @ rows.T).float() * COSINE.temperature
        return (weights * F.cross_entropy(logits, positives, reduction="none")).sum()

    states, table, positives = candidate_inputs(tokens, 1, items, width, precision)
    weights = torch.rand(tokens, generator=torch.Generator().manual_seed(1))
    others = positives[:, 0], weights.to(target().device)
    return block_loss_case(corpus_softmax, plain, (states, table), others, items)


_SMALL = {"tokens": 7, "items": 31, "width": 9, "precision": "fp32"}


@operation(
    "corpus_softmax",
    "kernel",
    small=_SMALL,
    sizes={"tokens": TOKENS, **BEAUTY, "precision": "fp32"},
    gpu_sizes=(
        {"tokens": 2**15, **BEAUTY, "precision": "bf16"},
        {"tokens": 2**15, **BEAUTY, "precision": "fp32"},
        {"tokens": TOKENS, **BEAUTY, "precision": "fp32"},
    ),
    check_at_size=True,
)
def beauty(tokens: int, items: int, width: int, precision: str) -> Case:
    return _case(tokens, items, width, precision)


operation(
    "corpus_softmax bf16",
    "kernel",
    small={**_SMALL, "precision": "bf16"},
    sizes={"tokens": TOKENS, **BEAUTY, "precision": "bf16"},
    check_at_size=True,
)(_case)
