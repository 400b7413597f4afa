"""Preferences of all users: what stands between a fitted diffusion and PDRec's training."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

import pdrec_fast as pf
from bench.data import TOY, equally_long, source, split
from bench.dense import untrained
from bench.registry import Case, Floor, Growth, Implementation, operation
from bench.target import COMPILED, compiled, target
from pdrec_fast.diffusion.reverse import dense_reverse
from pdrec_fast.reference.selection.select_unobserved import observed_mask

TOP, DRAWS, OMEGA, STEPS = 50, 1_024, 0.5, 10
DENSE_BLOCK, PRODUCT_BLOCK = 128, 512
DENSE_NUMBERS = 2**26  # of users x items, at most, in the dense chain


def _make(users: int, items: int, hidden: int, timed_users: int = 0) -> Case:
    """``timed_users`` of ``users`` of 14 records each, scaled up; 0 takes the data set's."""
    train = equally_long(timed_users, items, 14) if timed_users else split(users, items).train
    model = untrained(items, hidden=(hidden,), steps=STEPS)
    n_users = train.n_users

    def infer() -> pf.Preferences:
        return pf.Preferences.infer(
            model, train, top_m=TOP, omega_m=OMEGA, n_draws=DRAWS, progress=False
        )

    def inferred() -> tuple[np.ndarray, ...]:
        found = infer()
        return found.top_items, found.threshold_items, found.threshold_scores

    def product():
        table = model.fitted_denoiser().item_out.detach()
        vectors = torch.rand(n_users, hidden, device=table.device)
        out = table.new_empty(PRODUCT_BLOCK, items)
        starts = range(0, n_users, PRODUCT_BLOCK)

        def run() -> None:
            for part in (vectors[start : start + PRODUCT_BLOCK] for start in starts):
                torch.mm(part, table.T, out=out[: len(part)])

        return run

    denoiser = model.fitted_denoiser()
    block = np.arange(min(max(DENSE_NUMBERS // items, 1), DENSE_BLOCK, n_users))
    scaled: dict[str, Any] = {
        "share": len(block) / users,
        "note": f"{len(block)} of {users} users, scaled",
    }
    all_users = np.arange(n_users)
    rows = {
        "pdrec_fast": Implementation(
            lambda: infer,
            inferred,
            share=n_users / users,
            note=f"{n_users} of {users} users, scaled" if n_users < users else "",
        ),
        "dense chain + sort": Implementation(
            lambda: partial(_by_sorting, model, denoiser, train, block),
            lambda: _by_sorting(model, denoiser, train, all_users)[:3],
            **scaled,
        ),
        "bare projection": Implementation(
            product,
            comparable=False,
            share=n_users / users,
            note="the matrix product of users and items alone",
        ),
    }
    if target().gpu:
        rows[COMPILED] = Implementation(
            lambda: partial(_by_sorting, model, compiled(denoiser), train, block),
            comparable=False,
            slow_start=True,
            **scaled,
        )
    return Case(
        rows,
        reference="dense chain + sort",
        floor=Floor(flops=2 * users * hidden * (items + STEPS * hidden)),
        rtol=1e-4,
        atol=1e-6,
        data="uniform items, 14 records each" if timed_users else source(users, items),
    )


@torch.no_grad()
def _by_sorting(
    model: pf.DiffRec, denoiser: Any, train: pf.Interactions, block: np.ndarray
) -> tuple[torch.Tensor, ...]:
    """(top items, threshold's item, its score, draws) from dense states and a sort of all items."""
    device, items = target().device, train.n_items
    histories = train.histories(block)
    scores = dense_reverse(denoiser, model.schedule, model.inputs(histories), histories.users)
    observed = train.unique_items().rows(slice(block[0], block[-1] + 1))
    counts = observed.lengths
    mask = observed_mask(observed, items).to(device)
    order = scores.masked_fill(mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    first = torch.from_numpy((OMEGA * (items - counts)).astype(np.int64)).to(device)
    span = torch.from_numpy(items - counts).to(device) - first
    draws = torch.rand(len(block), DRAWS, device=device)
    ranks = first[:, None] + (draws * span[:, None]).long()
    threshold = order.gather(1, first[:, None])
    draws = order.gather(1, ranks)
    return order[:, :TOP], threshold[:, 0], scores.gather(1, threshold)[:, 0], draws


operation(
    "preferences",
    "stage",
    sizes={**TOY, "hidden": 1_000},
    gpu_sizes=({**TOY, "hidden": 1_000},),
    small={"users": 40, "items": 301, "hidden": 13},
    growth=(
        Growth("users", (500, 1_000, 2_000, 4_000)),
        Growth("items", (4_734, 9_467, 18_934, 37_868), {"users": 1_000}),
    ),
)(_make)
operation(
    "preferences_million",
    "stage",
    gpu_sizes=({"users": 10**6, "items": 10**6, "hidden": 256, "timed_users": 8_192},),
    small={"users": 80, "items": 301, "hidden": 13, "timed_users": 40},
)(_make)
