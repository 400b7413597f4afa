"""Operations on candidate items: their logits, and the loss that trains on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

import pdrec_fast as pf
from bench.dense import DTYPES
from bench.padded import logits
from bench.registry import Case, Floor, Implementation, call, operation
from bench.target import eager, target
from pdrec_fast.ops.candidates.item_logits import item_logits
from pdrec_fast.ops.candidates.sampled_softmax import sampled_softmax
from pdrec_fast.ops.candidates.weighted_bce import weighted_bce

COSINE = pf.PDRecConfig(similarity="cosine", temperature=5.0)
_SETTINGS = {"similarity": COSINE.similarity, "temperature": COSINE.temperature}
_TABLE = {"items": 37_868, "width": 64}


def _inputs(
    tokens: int, candidates: int, items: int, width: int, precision: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(states, table, candidates' items)."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, width, generator=generator).to(DTYPES[precision])
    table = torch.randn(items, width, generator=generator).to(DTYPES[precision])
    chosen = torch.randint(items, (tokens, candidates), generator=generator)
    device = target().device
    return states.to(device), table.to(device), chosen.to(device)


@operation(
    "item_logits",
    "kernel",
    sizes={"tokens": 256, "candidates": 100, **_TABLE, "precision": "fp32"},
    gpu_sizes=(
        {"tokens": 65_536, "candidates": 100, **_TABLE, "precision": "fp32"},
        {"tokens": 256, "candidates": 100, **_TABLE, "precision": "fp32"},
        {"tokens": 65_536, "candidates": 100, **_TABLE, "precision": "bf16"},
    ),
    small={"tokens": 7, "candidates": 5, "items": 31, "width": 9, "precision": "fp32"},
    check_at_size=True,
)
def candidate_logits(tokens: int, candidates: int, items: int, width: int, precision: str) -> Case:
    """As in evaluation under ``paper``: a block of users, 100 candidates each."""
    states, table, chosen = _inputs(tokens, candidates, items, width, precision)

    def reference() -> torch.Tensor:
        return item_logits(states.float(), table.float(), chosen, **_SETTINGS, impl="reference")

    def gather(states: torch.Tensor, table: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return logits(COSINE, states, table[chosen])

    def run(forward: Callable[..., torch.Tensor]) -> torch.Tensor:
        return forward(states, table, chosen)

    wide = precision == "fp32"
    read = states.nbytes + chosen.nbytes + chosen.unique().numel() * width * table.itemsize
    return Case(
        {
            impl: call(item_logits, states, table, chosen, **_SETTINGS, impl=impl)
            for impl in target().kernels
        }
        | {"reference": Implementation(lambda: reference, timed=not target().gpu)}
        | eager("torch gather", run, gather, comparable=wide),
        reference="reference",
        baseline="torch gather" if target().gpu else "",
        floor=Floor(bytes=read + 4 * chosen.numel()),
        rtol=1e-4 if wide else 1.6e-2,
        atol=1e-5,
        by_norm=not wide,
    )


def _sizes(candidates: int) -> dict[str, Any]:
    """Of a loss, as ``operation`` takes them."""
    shape = {"candidates": candidates, **_TABLE}
    return {
        "sizes": {"tokens": 2_048, **shape, "precision": "fp32"},
        "gpu_sizes": (
            {"tokens": 2**20, **shape, "precision": "fp32"},
            {"tokens": 2_048, **shape, "precision": "fp32"},
            {"tokens": 2**20, **shape, "precision": "bf16"},
        ),
        "small": {"tokens": 7, "candidates": 3, "items": 31, "width": 9, "precision": "fp32"},
        "check_at_size": True,
    }


@operation("weighted_bce", "kernel", **_sizes(candidates=3))
def bce(tokens: int, candidates: int, items: int, width: int, precision: str) -> Case:
    """A batch's ranking loss, one positive and the rest negatives, forward and backward."""

    def plain(
        states: torch.Tensor, table: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        scores = logits(COSINE, states, F.embedding(chosen, table))
        signed = torch.cat([-scores[:, :1], scores[:, 1:]], dim=1)
        return (weights * F.softplus(signed)).sum()

    weights = torch.rand(tokens, candidates, generator=torch.Generator().manual_seed(1))
    inputs = _inputs(tokens, candidates, items, width, precision)
    return _loss(partial(weighted_bce, n_positives=1), plain, inputs, weights)


@operation("sampled_softmax", "kernel", **_sizes(candidates=17))
def softmax(tokens: int, candidates: int, items: int, width: int, precision: str) -> Case:
    """A batch's ranking loss of each positive among its negatives, forward and backward."""

    def plain(
        states: torch.Tensor, table: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        scores = logits(COSINE, states, F.embedding(chosen, table))
        return -(weights * scores.log_softmax(dim=1)[:, 0]).sum()

    weights = torch.rand(tokens, generator=torch.Generator().manual_seed(1))
    inputs = _inputs(tokens, candidates, items, width, precision)
    return _loss(sampled_softmax, plain, inputs, weights)


def _loss(
    of_package: Callable[..., torch.Tensor],
    plain: Callable[..., torch.Tensor],
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
) -> Case:
    """A loss of (states, table, chosen) and weights, with its gradients."""
    states, table, chosen = inputs
    weights = weights.to(target().device)
    leaves = states.requires_grad_(), table.requires_grad_()
    wide_leaves = tuple(x.detach().float().requires_grad_() for x in leaves)

    def gradients(forward: Callable[..., torch.Tensor], *leaves: torch.Tensor) -> tuple:
        value = forward(*leaves, chosen, weights)
        return value.detach(), *torch.autograd.grad(value, leaves)

    def package(impl: str) -> Callable[..., torch.Tensor]:
        return partial(of_package, **_SETTINGS, impl=impl)

    wide, on_gpu = states.dtype == torch.float32, target().gpu
    reference = call(gradients, package("reference"), *wide_leaves)
    # Read states and candidates, write the gradients of both; the rest of the table's is zero.
    rows = 2 * len(states) + chosen.unique().numel() + len(table)
    return Case(
        {impl: call(gradients, package(impl), *leaves) for impl in target().kernels}
        | {"reference": Implementation(reference.prepare, timed=not on_gpu)}
        | eager("torch eager", lambda forward: gradients(forward, *leaves), plain, comparable=wide),
        reference="reference",
        baseline="torch eager" if on_gpu else "",
        floor=Floor(
            bytes=states.itemsize * states.shape[1] * rows + chosen.nbytes + weights.nbytes
        ),
        rtol=1e-4 if wide else 1.6e-2,
        atol=1e-4,
        by_norm=not wide,
    )
