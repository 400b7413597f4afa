"""Candidate items for their operations, and the case that every loss of them is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import pdrec_fast as pf
from bench.dense import DTYPES
from bench.registry import Case, Floor, Implementation, call
from bench.target import eager, target

COSINE = pf.PDRecConfig(similarity="cosine", temperature=5.0)
SETTINGS = {"similarity": COSINE.similarity, "temperature": COSINE.temperature}
TABLE = {"items": 37_868, "width": 64}


def candidate_inputs(
    tokens: int, candidates: int, items: int, width: int, precision: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(states, table, candidates' items)."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, width, generator=generator).to(DTYPES[precision])
    table = torch.randn(items, width, generator=generator).to(DTYPES[precision])
    chosen = torch.randint(items, (tokens, candidates), generator=generator)
    device = target().device
    return states.to(device), table.to(device), chosen.to(device)


def loss_sizes(candidates: int) -> dict[str, Any]:
    """Of a loss, as ``operation`` takes them."""
    shape = {"candidates": candidates, **TABLE}
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


def loss_case(
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
        return partial(of_package, **SETTINGS, impl=impl)

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
