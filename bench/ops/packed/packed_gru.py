"""The recurrent layer over a training batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from bench.data import source
from bench.ops.packed._sequences import batch_of
from bench.registry import Case, Floor, Implementation, operation
from pdrec_fast.encoders.gru4rec import time_order
from pdrec_fast.ops.packed.packed_gru import packed_gru


@operation(
    "packed_gru",
    "kernel",
    sizes={"users": 128, "items": 37_868, "width": 64},
    small={"users": 5, "items": 301, "width": 8},
    check_at_size=True,
)
def gru(users: int, items: int, width: int) -> Case:
    """One layer, forward and backward."""
    batch = batch_of(users, items)
    sizes = torch.from_numpy(time_order(batch.host_lengths)[0])
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, batch.n_tokens, width, generator=generator)
    shapes = (3 * width, width), (3 * width, width), (3 * width,), (3 * width,)
    parameters = [width**-0.5 * torch.randn(shape, generator=generator) for shape in shapes]

    def package(impl: str) -> Callable:
        inputs = [tensor.clone().requires_grad_() for tensor in (x, *parameters)]

        def run() -> tuple[torch.Tensor, ...]:
            out = packed_gru(inputs[0], sizes, *inputs[1:], impl=impl)
            return out.detach(), *torch.autograd.grad(out, inputs, gradient)

        return run

    return Case(
        {impl: Implementation(partial(package, impl)) for impl in ("steps", "reference")},
        reference="reference",
        # Input and state through three gates, and as much twice for the gradients.
        floor=Floor(bytes=4 * x.nbytes, flops=3 * 2 * 2 * 3 * width**2 * batch.n_tokens),
        rtol=1e-4,
        atol=1e-4,
        sizes={"tokens": batch.n_tokens},
        data=source(users, items),
    )
