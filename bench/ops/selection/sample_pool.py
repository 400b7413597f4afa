"""Draws from pools of which only the thresholds are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.ops.selection._scores import DRAWS, TOP, scored_rows
from bench.registry import Case, Floor, Implementation, call, operation
from pdrec_fast.ops.selection.sample_pool import sample_pool
from pdrec_fast.ops.selection.select_unobserved import select_unobserved
from pdrec_fast.reference.selection.select_unobserved import observed_mask


@operation(
    "sample_pool",
    "kernel",
    sizes={"users": 64, "items": 37_868},
    small={"users": 5, "items": 501},
    check_at_size=True,
    threads=1,
)
def draws(users: int, items: int) -> Case:
    """200 draws from half of the unobserved items of every row."""
    scores, rows, rank = scored_rows(users, items)
    observed = rows.indptr, rows.values
    chosen = select_unobserved(scores, observed, TOP, np.full(users, rank))
    threshold = chosen.threshold_score, chosen.threshold_item
    keys: dict[str, Any] = {"seed": 0, "users": np.arange(users)}

    def by_mask() -> torch.Tensor:
        pool = (scores <= threshold[0][:, None]) & ~observed_mask(rows, items)
        return torch.multinomial(pool.float(), DRAWS, replacement=True)

    def package(impl: str) -> Implementation:
        return call(sample_pool, scores, observed, *threshold, DRAWS, **keys, impl=impl)

    return Case(
        {
            "cpp": package("cpp"),
            "reference": package("reference"),
            "torch multinomial": Implementation(
                call(by_mask).prepare, comparable=False, note="other random numbers"
            ),
        },
        reference="reference",
        # A draw looks at one score, of about two candidates each; the draws are written.
        floor=Floor(bytes=users * DRAWS * 3 * 4),
    )
