"""Top-m, threshold and draws from the pool: what PDRec asks of every row of preferences."""

from __future__ import annotations

import numpy as np
import torch

from bench.ops.selection._scores import DRAWS, OBSERVED, TOP, scored_rows
from bench.registry import Case, Floor, Growth, Implementation, call, operation
from pdrec_fast.ops.selection.sample_pool import sample_pool
from pdrec_fast.ops.selection.select_unobserved import select_unobserved
from pdrec_fast.reference.selection.select_unobserved import observed_mask


@operation(
    "select_unobserved",
    "kernel",
    sizes={"users": 64, "items": 37_868},
    small={"users": 5, "items": 501},
    check_at_size=True,
    growth=(Growth("items", (4_096, 16_384, 65_536, 262_144), {"users": 16}),),
    threads=1,
)
def selection(users: int, items: int) -> Case:
    """Top 50, the item at rank 0.5 l and 200 draws at or after it, of every row."""
    scores, rows, rank = scored_rows(users, items)
    mask = observed_mask(rows, items)
    observed = rows.indptr, rows.values

    def package(impl: str) -> tuple[torch.Tensor, ...]:
        chosen = select_unobserved(scores, observed, TOP, np.full(users, rank), impl=impl)
        threshold = chosen.threshold_score, chosen.threshold_item
        draws = sample_pool(
            scores, observed, *threshold, DRAWS, seed=0, users=np.arange(users), impl=impl
        )
        return *chosen, draws

    def by_sorting() -> tuple[torch.Tensor, ...]:
        order = scores.masked_fill(mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
        item = order[:, rank]
        draws = order.gather(1, torch.randint(rank, items - OBSERVED, (users, DRAWS)))
        return order[:, :TOP], scores.gather(1, item[:, None])[:, 0], item, draws

    def by_selecting() -> tuple[torch.Tensor, ...]:
        unobserved = scores.masked_fill(mask, -torch.inf)
        top = unobserved.topk(TOP, dim=1).indices
        threshold, item = unobserved.kthvalue(items - rank, dim=1)
        pool = (scores <= threshold[:, None]) & ~mask
        draws = torch.multinomial(pool.float(), DRAWS, replacement=True)
        return top, threshold, item, draws

    def checked(run, *arguments: str) -> Implementation:
        def result() -> tuple[torch.Tensor, ...]:
            top, threshold, item, draws = run(*arguments)
            pool = (scores <= threshold[:, None]) & ~mask
            return top, threshold, item, pool.gather(1, draws.long()).all()

        prepared = call(run, *arguments)
        return Implementation(prepared.prepare, result)

    return Case(
        {
            "cpp": checked(package, "cpp"),
            "reference": checked(package, "reference"),
            "torch stable sort": checked(by_sorting),
            "torch topk + kthvalue": checked(by_selecting),
            "bare topk + kthvalue": Implementation(
                call(
                    lambda: (scores.topk(TOP, dim=1), scores.kthvalue(items - rank, dim=1))
                ).prepare,
                comparable=False,
                note="of all items, observed ones too, and no draws",
            ),
        },
        reference="reference",
        floor=Floor(bytes=4 * users * items),
    )
