"""Preferences of all users: what stands between a fitted diffusion and PDRec's training."""

from __future__ import annotations

import numpy as np
import torch

import pdrec_fast as pf
from bench.data import TOY, source, split
from bench.dense import untrained
from bench.registry import Case, Floor, Growth, Implementation, operation
from pdrec_fast.diffusion.reverse import dense_reverse
from pdrec_fast.reference.selection import observed_mask

TOP, DRAWS, OMEGA, STEPS = 50, 1_024, 0.5, 10
DENSE_BLOCK, PRODUCT_BLOCK = 128, 512


@operation(
    "preferences",
    "stage",
    sizes={**TOY, "hidden": 1_000},
    small={"users": 40, "items": 301, "hidden": 13},
    growth=(
        Growth("users", (500, 1_000, 2_000, 4_000)),
        Growth("items", (4_734, 9_467, 18_934, 37_868), {"users": 1_000}),
    ),
)
def preferences(users: int, items: int, hidden: int) -> Case:
    """Scores, top 50, threshold and 1,024 draws of every user."""
    train = split(users, items).train
    model = untrained(items, hidden=(hidden,), steps=STEPS)

    def infer() -> pf.Preferences:
        return pf.Preferences.infer(
            model, train, top_m=TOP, omega_m=OMEGA, n_draws=DRAWS, progress=False
        )

    def inferred() -> tuple[np.ndarray, ...]:
        found = infer()
        return found.top_items, found.threshold_items, found.threshold_scores

    @torch.no_grad()
    def dense(block: np.ndarray) -> tuple[torch.Tensor, ...]:
        histories = train.histories(block)
        scores = dense_reverse(
            model.fitted_denoiser(), model.schedule, model.inputs(histories), histories.users
        )
        indptr, seen = train.unique_items()
        counts = np.diff(indptr)[block]
        rows = indptr[block[0]] + np.arange(counts.sum())
        mask = observed_mask(np.concatenate([[0], np.cumsum(counts)]), seen[rows], items)
        order = scores.masked_fill(mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
        first = torch.from_numpy((OMEGA * (items - counts)).astype(np.int64))
        span = torch.from_numpy(items - counts) - first
        ranks = first[:, None] + (torch.rand(len(block), DRAWS) * span[:, None]).long()
        threshold = order.gather(1, first[:, None])
        draws = order.gather(1, ranks)
        return order[:, :TOP], threshold[:, 0], scores.gather(1, threshold)[:, 0], draws

    def product():
        table = model.fitted_denoiser().item_out.detach()
        vectors = torch.rand(users, hidden)
        out = torch.empty(PRODUCT_BLOCK, items)
        starts = range(0, users, PRODUCT_BLOCK)

        def run() -> None:
            for part in (vectors[start : start + PRODUCT_BLOCK] for start in starts):
                torch.mm(part, table.T, out=out[: len(part)])

        return run

    block = np.arange(min(DENSE_BLOCK, users))
    return Case(
        {
            "pdrec_fast": Implementation(lambda: infer, inferred),
            "dense chain + sort": Implementation(
                lambda: lambda: dense(block),
                lambda: dense(np.arange(users))[:3],
                share=len(block) / users,
                note=f"{len(block)} of {users} users, scaled",
            ),
            "bare projection": Implementation(
                product, comparable=False, note="the matrix product of users and items alone"
            ),
        },
        reference="dense chain + sort",
        floor=Floor(flops=2 * users * hidden * (items + STEPS * hidden)),
        rtol=1e-4,
        atol=1e-6,
        data=source(users, items),
    )
