"""Ranks of targets: how many of the corpus's scores lie above each, and level with it."""

from __future__ import annotations

import numpy as np
import torch

from bench.registry import Case, Floor, Implementation, call, operation
from pdrec_fast.ops.selection.count_above import count_above


@operation(
    "count_above",
    "kernel",
    sizes={"users": 110, "items": 37_868},
    small={"users": 5, "items": 301},
)
def counts(users: int, items: int) -> Case:
    """A block of an evaluation, whose scores are in the last cache."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(users, items, generator=generator)
    bounds = scores[:, 0].clone()

    def numpy_masks() -> tuple[np.ndarray, ...]:
        values, level = scores.numpy(), bounds.numpy()[:, None]
        masks = values > level, values == level, np.isnan(values)
        return tuple(np.count_nonzero(mask, axis=1) for mask in masks)

    return Case(
        {impl: call(count_above, scores, bounds, impl=impl) for impl in ("cpp", "reference")}
        | {"NumPy masks": Implementation(lambda: numpy_masks)},
        reference="reference",
        baseline="NumPy masks",
        floor=Floor(bytes=scores.nbytes),
    )
