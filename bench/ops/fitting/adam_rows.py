"""A step of Adam for the item table, of which a batch reaches some rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from bench.ops.fitting._gradients import FIELDS, gradients_of
from bench.registry import Case, Floor, Implementation, operation
from pdrec_fast.operands import AdamRule, AdamState
from pdrec_fast.ops.fitting.adam_rows import adam_rows
from pdrec_fast.ops.fitting.sum_rows import sum_rows

RULE = AdamRule(lr=1e-3, beta1=0.9, beta2=0.98, eps=1e-8)


@operation("adam_rows", "kernel", **FIELDS)
def rows_alone(gradients: int, items: int, width: int) -> Case:
    """The baseline moves all rows: the rule of ``table_optimizer="dense"``, gradient included."""
    rows, values = gradients_of(gradients, items, width)
    start = torch.randn(items, width, generator=torch.Generator().manual_seed(1))

    def package(impl: str) -> Implementation:
        def steps(n: int) -> tuple[AdamState, Callable[[], None]]:
            state = AdamState(start.clone(), torch.zeros_like(start), torch.zeros_like(start))
            number = [0]

            def run() -> None:
                number[0] += 1
                adam_rows(state, rows, values, step=number[0], rule=RULE, impl=impl)

            for _ in range(n):
                run()
            return state, run

        return Implementation(lambda: steps(1)[1], result=lambda: tuple(steps(3)[0]))

    def every_row() -> Callable[[], None]:
        table, stale = nn.Parameter(start.clone()), [rows[:0]]
        table.grad = torch.zeros_like(start)
        optimizer = torch.optim.Adam([table], lr=1e-3, betas=(0.9, 0.98), fused=True)

        def run() -> None:
            stale[0] = sum_rows(table.grad, stale[0], rows, values)
            optimizer.step()

        return run

    # Read the gradients and where they go; read and write three rows for each that is touched.
    touched = rows.unique().numel()
    return Case(
        {impl: package(impl) for impl in ("cpp", "reference")}
        | {"all rows": Implementation(every_row, comparable=False, note="another rule")},
        reference="reference",
        floor=Floor(bytes=rows.nbytes + values.nbytes + 6 * 4 * touched * width),
        rtol=1e-5,
        atol=1e-6,
        sizes={"touched": touched},
    )
