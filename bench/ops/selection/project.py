"""Scores of the whole corpus from users' vectors."""

from __future__ import annotations

import torch

from bench.registry import Case, Floor, Implementation, call, operation
from pdrec_fast.ops.selection.project import project
from pdrec_fast.reference.selection import project as reference


@operation(
    "project",
    "kernel",
    sizes={"users": 400, "items": 37_868, "hidden": 1_000},
    small={"users": 5, "items": 301, "hidden": 13},
    check_at_size=True,
)
def scores(users: int, items: int, hidden: int) -> Case:
    """The projection of the preferences, by either library."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(users, hidden, generator=generator) * 2 - 1
    table = torch.randn(items, hidden, generator=generator) * hidden**-0.5
    bias = torch.randn(items, generator=generator)
    wide = call(reference.project, vectors, table, bias).prepare
    return Case(
        {impl: call(project, vectors, table, bias, impl=impl) for impl in ("onednn", "torch")}
        | {"reference": Implementation(wide, note="in float64")},
        reference="reference",
        floor=Floor(
            bytes=table.nbytes + vectors.nbytes + 4 * users * items,
            flops=2 * users * items * hidden,
        ),
        rtol=1e-5,
        atol=1e-5,
    )
