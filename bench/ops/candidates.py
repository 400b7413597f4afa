"""Operations on candidate items: their logits, and the loss that trains on them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import pdrec_fast as pf
from bench.padded import logits
from bench.registry import Case, Floor, call, operation
from pdrec_fast.ops.item_logits import item_logits
from pdrec_fast.ops.weighted_bce import weighted_bce

COSINE = pf.PDRecConfig(similarity="cosine", temperature=5.0)
_SETTINGS = {"similarity": COSINE.similarity, "temperature": COSINE.temperature}


def _inputs(
    tokens: int, candidates: int, items: int, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(states, table, candidates' items)."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(tokens, width, generator=generator),
        torch.randn(items, width, generator=generator),
        torch.randint(items, (tokens, candidates), generator=generator),
    )


@operation(
    "item_logits",
    "kernel",
    sizes={"tokens": 256, "candidates": 100, "items": 37_868, "width": 64},
    small={"tokens": 7, "candidates": 5, "items": 31, "width": 9},
    check_at_size=True,
)
def candidate_logits(tokens: int, candidates: int, items: int, width: int) -> Case:
    """As in evaluation under ``paper``: a block of users, 100 candidates each."""
    states, table, chosen = _inputs(tokens, candidates, items, width)
    arguments = states, table, chosen
    return Case(
        {
            "cpp": call(item_logits, *arguments, **_SETTINGS, impl="cpp"),
            "reference": call(item_logits, *arguments, **_SETTINGS, impl="reference"),
            "torch gather": call(lambda: logits(COSINE, states, table[chosen])),
        },
        reference="reference",
        floor=Floor(bytes=4 * (width * chosen.unique().numel() + chosen.numel())),
        rtol=1e-4,
        atol=1e-5,
    )


@operation(
    "weighted_bce",
    "kernel",
    sizes={"tokens": 2_048, "candidates": 3, "items": 37_868, "width": 64},
    small={"tokens": 7, "candidates": 3, "items": 31, "width": 9},
    check_at_size=True,
)
def loss(tokens: int, candidates: int, items: int, width: int) -> Case:
    """A batch's ranking loss, one positive and the rest negatives, forward and backward."""
    states, table, chosen = _inputs(tokens, candidates, items, width)
    inputs = states.requires_grad_(), table.requires_grad_()
    weights = torch.rand(tokens, candidates, generator=torch.Generator().manual_seed(1))

    def gradients(value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return value.detach(), *torch.autograd.grad(value, inputs)

    def package(impl: str, sparse: bool) -> tuple[torch.Tensor, ...]:
        return gradients(
            weighted_bce(*inputs, chosen, weights, 1, **_SETTINGS, sparse_grad=sparse, impl=impl)
        )

    def eager() -> tuple[torch.Tensor, ...]:
        scores = logits(COSINE, states, F.embedding(chosen, table))
        signed = torch.cat([-scores[:, :1], scores[:, 1:]], dim=1)
        return gradients((weights * F.softplus(signed)).sum())

    return Case(
        {
            "cpp": call(package, "cpp", sparse=False),
            "reference": call(package, "reference", sparse=False),
            "torch eager": call(eager),
        },
        reference="reference",
        # Read states and candidates, write the gradients of both; the rest of the table's is zero.
        floor=Floor(bytes=4 * width * (2 * tokens + chosen.unique().numel() + items)),
        rtol=1e-4,
        atol=1e-4,
    )
