"""A step's gradients of rows, summed into a dense gradient of the item table."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.ops.fitting._gradients import FIELDS, gradients_of
from bench.registry import Case, Floor, Implementation, operation
from pdrec_fast.ops.fitting.sum_rows import sum_rows


@operation("sum_rows", "kernel", **FIELDS)
def summed(gradients: int, items: int, width: int) -> Case:
    """The baseline makes a dense gradient anew, as autograd does without sparse gradients."""
    rows, values = gradients_of(gradients, items, width)

    def package(impl: str) -> Implementation:
        def prepare() -> Callable[[], torch.Tensor]:
            out, stale = torch.zeros(items, width), [rows[:0]]

            def run() -> torch.Tensor:
                stale[0] = sum_rows(out, stale[0], rows, values, impl=impl)
                return out

            return run

        return Implementation(prepare)

    def anew() -> Callable[[], torch.Tensor]:
        return lambda: torch.zeros(items, width).index_add_(0, rows, values)

    # Read the gradients and where they go, clear and write what they touch.
    touched = rows.unique().numel()
    return Case(
        {impl: package(impl) for impl in ("cpp", "reference")} | {"anew": Implementation(anew)},
        reference="reference",
        floor=Floor(bytes=rows.nbytes + values.nbytes + 2 * 4 * touched * width),
        sizes={"touched": touched},
    )
