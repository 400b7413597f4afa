"""The first layer of a diffusion training step: noised input times weight, and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bench.dense import DTYPES
from bench.ops.denoising._noise import DROPOUT, KEY, OTHER_NUMBERS, arrays, plain_noise, rows_of
from bench.registry import Case, Floor, Implementation, operation
from bench.target import eager, target
from pdrec_fast.ops.denoising.noisy_projection import noisy_projection

_STEP = {"users": 400, "items": 37_868, "hidden": 1_000}


@operation(
    "noisy_projection",
    "kernel",
    gpu_sizes=tuple(_STEP | {"precision": precision} for precision in ("bf16", "fp32")),
    small={"users": 7, "items": 131, "hidden": 13, "precision": "fp32"},
    check_at_size=True,
)
def make(users: int, items: int, hidden: int, precision: str) -> Case:
    rows, dtype, device = rows_of(users, items), DTYPES[precision], target().device
    x0 = rows.dense().to(device)
    sparse, (signal, sigma, keys) = arrays(rows)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(items, hidden, generator=generator).mul_(hidden**-0.5).to(dtype)
    gradient = torch.randn(users, hidden, generator=generator).to(device, dtype)
    weight = weight.to(device).requires_grad_()
    wide_weight = weight.detach().float().requires_grad_()

    def gradients(
        forward: Callable[[torch.Tensor], torch.Tensor], weight: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        out = forward(weight)
        return out.detach(), *torch.autograd.grad(out, weight, gradient.to(out.dtype))

    def package(impl: str, weight: torch.Tensor) -> Callable[[], Any]:
        def forward(weight: torch.Tensor) -> torch.Tensor:
            rows = signal, sigma, DROPOUT
            return noisy_projection(*sparse, weight, *rows, **KEY, users=keys, impl=impl)

        return partial(gradients, forward, weight)

    def plain(weight: torch.Tensor) -> torch.Tensor:
        return plain_noise(x0).to(dtype) @ weight

    kernels = ("materialized", *(["triton"] if target().gpu else []))
    return Case(
        {impl: Implementation(partial(package, impl, weight)) for impl in kernels}
        | {"reference": Implementation(partial(package, "reference", wide_weight), timed=False)}
        | eager(
            "torch randn + dropout",
            lambda forward: gradients(forward, weight),
            plain,
            comparable=False,
            note=OTHER_NUMBERS,
        ),
        reference="reference",
        baseline="torch randn + dropout",
        # The product and its gradient; read the weight, write its gradient.
        floor=Floor(bytes=2 * weight.nbytes, flops=2 * 2 * users * items * hidden, dtype=precision),
        rtol=1e-4 if precision == "fp32" else 1.6e-2,
        by_norm=True,
    )
