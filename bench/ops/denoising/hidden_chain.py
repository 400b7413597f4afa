"""The reverse process within the hidden layer, from sparse histories."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from bench.data import source, split
from bench.dense import untrained
from bench.registry import Case, Floor, call, operation
from bench.target import eager, target
from pdrec_fast.diffusion.reverse import HiddenChain
from pdrec_fast.ops.denoising.hidden_chain import hidden_chain


@operation(
    "hidden_chain",
    "kernel",
    gpu_sizes=(
        {"users": 7_996, "items": 37_868, "hidden": 1_000, "steps": 10},
        {"users": 7_996, "items": 37_868, "hidden": 256, "steps": 10},
    ),
    small={"users": 7, "items": 301, "hidden": 13, "steps": 3},
    check_at_size=True,
)
def chain(users: int, items: int, hidden: int, steps: int) -> Case:
    """All steps for every user; the hidden layer's Gram matrix is at hand."""
    device = target().device
    model = untrained(items, hidden=(hidden,), steps=steps)
    with torch.no_grad():
        shared = HiddenChain.prepare(model.fitted_denoiser(), model.schedule)
    item_in = model.fitted_denoiser().item_in.detach()
    rows = model.inputs(split(users, items).train.histories(np.arange(users)))
    sparse = [torch.from_numpy(x).to(device) for x in (rows.indptr, rows.items, rows.values)]
    coefficients = model.schedule.x0_coefficient, model.schedule.xt_coefficient
    layer = item_in, shared.gram, shared.bias, shared.time, *(c.to(device) for c in coefficients)
    c1, c2 = (c.tolist() for c in coefficients)

    @torch.no_grad()
    def plain(
        indptr: torch.Tensor, items: torch.Tensor, values: torch.Tensor, item_in: torch.Tensor
    ) -> torch.Tensor:
        weights = {"mode": "sum", "per_sample_weights": values}
        projection = F.embedding_bag(items.long(), item_in, indptr[:-1], **weights)
        a, s = 1.0, 0.0
        h = g = torch.zeros_like(projection)
        for t in reversed(range(steps)):
            offset = a * projection + s * shared.bias + shared.time[t]
            h = torch.tanh(torch.addmm(offset, g, shared.gram))
            g = c1[t] * h + c2[t] * g
            a, s = c2[t] * a, c1[t] + c2[t] * s
        return h

    kernels = (*(["triton"] if target().gpu else []), "torch")
    n_gathered = len(np.unique(rows.items))
    return Case(
        {impl: call(hidden_chain, *sparse, *layer, impl=impl) for impl in kernels}
        | eager("torch eager", lambda forward: forward(*sparse, item_in), plain),
        reference="torch eager",
        # The first step starts from nothing and has no product.
        floor=Floor(
            bytes=4 * hidden * (n_gathered + users) + 4 * hidden**2,
            flops=2 * (steps - 1) * users * hidden**2,
        ),
        rtol=1e-4,
        atol=1e-5,
        sizes={"records": len(rows.items)},
        data=source(users, items),
    )
