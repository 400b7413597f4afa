"""The reverse process: preferences over the corpus from a few interactions."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from bench.data import split
from bench.dense import untrained
from bench.registry import Case, Floor, Implementation, call, operation
from pdrec_fast.diffusion.reverse import dense_reverse


@operation(
    "reverse_process",
    "kernel",
    sizes={"users": 64, "items": 37_868, "hidden": 1_000, "steps": 10},
    small={"users": 7, "items": 301, "hidden": 13, "steps": 10},
    check_at_size=True,
)
def reverse(users: int, items: int, hidden: int, steps: int) -> Case:
    """All steps of the chain; what all users share (the hidden layer's Gram matrix) is at hand."""
    model = untrained(items, hidden=(hidden,), steps=steps)
    histories = split(users, items).train.histories(np.arange(users))

    def hidden_chain():
        model.scores(histories[:1])  # computes the Gram matrix
        return partial(model.scores, histories)

    @torch.no_grad()
    def dense() -> torch.Tensor:
        denoiser = model.fitted_denoiser()
        return dense_reverse(denoiser, model.schedule, model.inputs(histories), histories.users)

    return Case(
        {"hidden chain": Implementation(hidden_chain), "dense chain": call(dense)},
        reference="dense chain",
        floor=Floor(flops=2 * users * hidden * (items + steps * hidden)),
        rtol=1e-4,
        atol=1e-5,
    )
