"""A reverse step of CODIGEM: means and variances of every item, forward and backward."""

from __future__ import annotations

from functools import partial

import torch

from bench.ops.denoising.corpus_error import layer
from bench.registry import Case, Floor, call, operation
from bench.target import target
from pdrec_fast.ops.denoising.normal_likelihood import normal_likelihood


@operation(
    "normal_likelihood",
    "kernel",
    sizes={"users": 256, "items": 37_868, "hidden": 200},
    small={"users": 7, "items": 301, "hidden": 13},
    check_at_size=True,
)
def likelihood(users: int, items: int, hidden: int) -> Case:
    """Losses of all rows and their gradients in hidden layer, item matrix and bias."""
    inputs = layer(users, 2 * items, hidden, "fp32")
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(users, items, generator=generator).to(target().device)

    def gradients(impl: str) -> tuple[torch.Tensor, ...]:
        losses = normal_likelihood(*inputs, z, impl=impl)
        return losses.detach(), *torch.autograd.grad(losses.sum(), inputs)

    return Case(
        {impl: call(partial(gradients, impl)) for impl in ("blocks", "reference")},
        reference="reference",
        floor=Floor(flops=12 * users * items * hidden),
        rtol=1e-4,
        atol=1e-5,
    )
