"""The noised, dropped-out input of a diffusion training step, and its product with a weight."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from bench.data import split
from bench.dense import DTYPES
from bench.registry import Case, Floor, Implementation, operation
from bench.target import eager, target
from pdrec_fast.diffusion.inputs import SparseRows, interaction_rows
from pdrec_fast.ops.denoising.noisy_input import noisy_input
from pdrec_fast.ops.denoising.noisy_projection import noisy_projection

DROPOUT, SIGNAL, SIGMA = 0.5, 0.99, 0.01
_OTHER_NUMBERS = "other random numbers, from dense rows"
_KEY: dict[str, Any] = {"seed": 0, "epoch": 0}


def _rows(users: int, items: int) -> SparseRows:
    histories = split(users, items).train.histories()
    return interaction_rows(histories, weighting="interval", w_min=0.5, w_max=1.0)


def _arrays(rows: SparseRows) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """([indptr, items, values], [signal, sigma, users]) where the kernels read them."""
    n, device = len(rows), target().device
    sparse = [torch.as_tensor(x).to(device) for x in (rows.indptr, rows.items, rows.values)]
    per_row = torch.full((n,), SIGNAL), torch.full((n,), SIGMA), torch.arange(n)
    return sparse, [x.to(device) for x in per_row]


def _plain_noise(x0: torch.Tensor) -> torch.Tensor:
    return F.dropout(SIGNAL * x0 + SIGMA * torch.randn_like(x0), DROPOUT)


def _make_input(users: int, items: int, precision: str) -> Case:
    rows, dtype, device = _rows(users, items), DTYPES[precision], target().device
    x0 = rows.dense().to(device)
    sparse, (signal, sigma, keys) = _arrays(rows)

    def package(impl: str) -> Callable[[], torch.Tensor]:
        arguments = *sparse, items, signal, sigma, DROPOUT
        where: dict[str, Any] = {"users": keys, "dtype": dtype, "device": device}
        return partial(noisy_input, *arguments, **_KEY, **where, impl=impl)

    def plain(x0: torch.Tensor) -> torch.Tensor:
        return _plain_noise(x0).to(dtype)

    return Case(
        {impl: Implementation(partial(package, impl)) for impl in target().kernels}
        | {"reference": Implementation(partial(package, "reference"), timed=not target().gpu)}
        | eager(
            "torch randn + dropout",
            lambda forward: forward(x0),
            plain,
            comparable=False,
            note=_OTHER_NUMBERS,
        ),
        reference="reference",
        baseline="torch randn + dropout" if target().gpu else "",
        floor=Floor(bytes=dtype.itemsize * users * items),
        rtol=1e-4 if precision == "fp32" else 1.6e-2,
        atol=1e-5,
    )


def _make_projection(users: int, items: int, hidden: int, precision: str) -> Case:
    rows, dtype, device = _rows(users, items), DTYPES[precision], target().device
    x0 = rows.dense().to(device)
    sparse, (signal, sigma, keys) = _arrays(rows)
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
            return noisy_projection(*sparse, weight, *rows, **_KEY, users=keys, impl=impl)

        return partial(gradients, forward, weight)

    def plain(weight: torch.Tensor) -> torch.Tensor:
        return _plain_noise(x0).to(dtype) @ weight

    kernels = ("materialized", *(["triton"] if target().gpu else []))
    return Case(
        {impl: Implementation(partial(package, impl, weight)) for impl in kernels}
        | {"reference": Implementation(partial(package, "reference", wide_weight), timed=False)}
        | eager(
            "torch randn + dropout",
            lambda forward: gradients(forward, weight),
            plain,
            comparable=False,
            note=_OTHER_NUMBERS,
        ),
        reference="reference",
        baseline="torch randn + dropout",
        # The product and its gradient; read the weight, write its gradient.
        floor=Floor(bytes=2 * weight.nbytes, flops=2 * 2 * users * items * hidden, dtype=precision),
        rtol=1e-4 if precision == "fp32" else 1.6e-2,
        by_norm=True,
    )


for _precision in DTYPES:
    operation(
        f"noisy_input_{_precision}",
        "kernel",
        sizes={"users": 100, "items": 37_868, "precision": _precision},
        gpu_sizes=({"users": 400, "items": 37_868, "precision": _precision},),
        small={"users": 7, "items": 301, "precision": _precision},
        check_at_size=True,
    )(_make_input)

_STEP = {"users": 400, "items": 37_868, "hidden": 1_000}
operation(
    "noisy_projection",
    "kernel",
    gpu_sizes=tuple(_STEP | {"precision": precision} for precision in ("bf16", "fp32")),
    small={"users": 7, "items": 131, "hidden": 13, "precision": "fp32"},
    check_at_size=True,
)(_make_projection)
