"""A block of SASRec on a training batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from bench.data import source
from bench.ops.packed._sequences import DROPOUT, batch_of, indptr_and_key
from bench.registry import Case, Floor, Growth, Implementation, operation
from pdrec_fast.operands import SasrecBlock
from pdrec_fast.ops.packed.sasrec_block import sasrec_block


@operation(
    "sasrec_block",
    "kernel",
    sizes={"users": 128, "items": 37_868, "width": 64},
    small={"users": 5, "items": 301, "width": 8},
    check_at_size=True,
    growth=(Growth("users", (64, 128, 256, 512)),),
)
def block(users: int, items: int, width: int) -> Case:
    """Forward and backward, with dropout; "layers" are torch's around our attention and dropout."""
    batch = batch_of(users, items)
    indptr, key = indptr_and_key(batch, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, batch.n_tokens, width, generator=generator)
    parameters = [
        torch.randn(
            (3 * width if name in ("in_weight", "in_bias") else width,)
            + ((width,) if name.endswith("weight") else ()),
            generator=generator,
        )
        * width**-0.5
        for name in SasrecBlock._fields
    ]

    def package(impl: str) -> Callable:
        inputs = [tensor.clone().requires_grad_() for tensor in (x, *parameters)]
        arguments = inputs[0], indptr, SasrecBlock(*inputs[1:])

        def run() -> tuple[torch.Tensor, ...]:
            out = sasrec_block(*arguments, dropout=DROPOUT, key=key, stream=0, impl=impl)
            return out.detach(), *torch.autograd.grad(out, inputs, gradient)

        return run

    pairs = float((batch.lengths * (batch.lengths + 1) / 2).sum())
    return Case(
        {impl: Implementation(partial(package, impl)) for impl in ("cpp", "layers", "reference")},
        reference="reference",
        # Six products of tokens and [width, width] forward, twice as many backward; and attention.
        floor=Floor(
            bytes=4 * x.nbytes,
            flops=2 * (18 * width**2 * batch.n_tokens + 6 * width * pairs),
        ),
        rtol=1e-4,
        atol=1e-4,
        sizes={"tokens": batch.n_tokens},
        data=source(users, items),
    )
