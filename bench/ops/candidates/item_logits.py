"""Logits of candidate items."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.ops.candidates._candidates import COSINE, SETTINGS, TABLE, candidate_inputs
from bench.padded import logits
from bench.registry import Case, Floor, Implementation, call, operation
from bench.target import eager, target
from pdrec_fast.ops.candidates.item_logits import item_logits


@operation(
    "item_logits",
    "kernel",
    sizes={"tokens": 256, "candidates": 100, **TABLE, "precision": "fp32"},
    gpu_sizes=(
        {"tokens": 65_536, "candidates": 100, **TABLE, "precision": "fp32"},
        {"tokens": 256, "candidates": 100, **TABLE, "precision": "fp32"},
        {"tokens": 65_536, "candidates": 100, **TABLE, "precision": "bf16"},
    ),
    small={"tokens": 7, "candidates": 5, "items": 31, "width": 9, "precision": "fp32"},
    check_at_size=True,
)
def candidate_logits(tokens: int, candidates: int, items: int, width: int, precision: str) -> Case:
    """As in evaluation under ``paper``: a block of users, 100 candidates each."""
    states, table, chosen = candidate_inputs(tokens, candidates, items, width, precision)

    def reference() -> torch.Tensor:
        return item_logits(states.float(), table.float(), chosen, **SETTINGS, impl="reference")

    def gather(states: torch.Tensor, table: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return logits(COSINE, states, table[chosen])

    def run(forward: Callable[..., torch.Tensor]) -> torch.Tensor:
        return forward(states, table, chosen)

    wide = precision == "fp32"
    read = states.nbytes + chosen.nbytes + chosen.unique().numel() * width * table.itemsize
    return Case(
        {
            impl: call(item_logits, states, table, chosen, **SETTINGS, impl=impl)
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
