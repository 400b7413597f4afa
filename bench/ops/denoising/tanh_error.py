"""CODIGEM's decoder against the histories of a batch, forward and backward."""

from __future__ import annotations

from functools import partial

import torch

from bench.data import split
from bench.ops.denoising.corpus_error import layer
from bench.registry import Case, Floor, call, operation
from bench.target import target
from pdrec_fast.diffusion.inputs import interaction_rows
from pdrec_fast.ops.denoising.tanh_error import tanh_error


@operation(
    "tanh_error",
    "kernel",
    sizes={"users": 256, "items": 37_868, "hidden": 200},
    small={"users": 7, "items": 301, "hidden": 13},
    check_at_size=True,
)
def error(users: int, items: int, hidden: int) -> Case:
    """Errors of all rows and their gradients in hidden layer, item matrix and bias."""
    inputs = layer(users, items, hidden, "fp32")
    histories = split(users, items).train.histories()
    rows = interaction_rows(histories, weighting="none", w_min=1.0, w_max=1.0)
    sparse = [t.to(target().device) for t in rows.coordinates()]

    def gradients(impl: str) -> tuple[torch.Tensor, ...]:
        errors = tanh_error(*inputs, *sparse, impl=impl)
        return errors.detach(), *torch.autograd.grad(errors.sum(), inputs)

    return Case(
        {impl: call(partial(gradients, impl)) for impl in ("blocks", "reference")},
        reference="reference",
        floor=Floor(flops=6 * users * items * hidden),
        rtol=1e-4,
        atol=1e-6,
    )
