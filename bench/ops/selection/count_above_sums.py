"""Ranks of targets for many shares of a guide at once, as the fusion's search needs them."""

from __future__ import annotations

import torch

from bench.registry import Case, Floor, Implementation, call, operation
from pdrec_fast.ops.selection.count_above import count_above
from pdrec_fast.ops.selection.count_above_sums import count_above_sums


@operation(
    "count_above_sums",
    "kernel",
    sizes={"users": 110, "items": 37_868, "weights": 9},
    small={"users": 5, "items": 301, "weights": 3},
)
def counts(users: int, items: int, weights: int) -> Case:
    """A block of validation cases, every weight of one transform."""
    generator = torch.Generator().manual_seed(0)
    logits, scores = torch.randn(2, users, items, generator=generator)
    values = torch.linspace(0.05, 2, weights)
    bounds = torch.stack([logits[:, 0], scores[:, 0]])

    def one_by_one() -> list[torch.Tensor]:
        found = []
        for weight in values.tolist():
            bound = torch.add(bounds[0], bounds[1], alpha=weight)
            found.append(count_above(torch.add(logits, scores, alpha=weight), bound))
        return [torch.stack(each, dim=1) for each in zip(*found, strict=True)]

    given = logits, scores, values, bounds
    return Case(
        {impl: call(count_above_sums, *given, impl=impl) for impl in ("cpp", "reference")}
        | {"one by one": Implementation(lambda: one_by_one, comparable=False, note="a sum each")},
        reference="reference",
        baseline="one by one",
        floor=Floor(bytes=logits.nbytes + scores.nbytes),
    )
