"""The noised, dropped-out input of a diffusion training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bench.dense import DTYPES
from bench.ops.denoising._noise import DROPOUT, KEY, OTHER_NUMBERS, arrays, plain_noise, rows_of
from bench.registry import Case, Floor, Implementation, operation
from bench.target import eager, target
from pdrec_fast.ops.denoising.noisy_input import noisy_input

_ON_CPU, _ON_GPU = {"users": 100, "items": 37_868}, {"users": 400, "items": 37_868}
_SMALL = {"users": 7, "items": 301}


@operation(
    "noisy_input_bf16",
    "kernel",
    sizes=_ON_CPU | {"precision": "bf16"},
    small=_SMALL | {"precision": "bf16"},
    check_at_size=True,
)
@operation(
    "noisy_input",
    "kernel",
    sizes=_ON_CPU | {"precision": "fp32"},
    gpu_sizes=tuple(_ON_GPU | {"precision": precision} for precision in ("bf16", "fp32")),
    small=_SMALL | {"precision": "fp32"},
    check_at_size=True,
)
def make(users: int, items: int, precision: str) -> Case:
    rows, dtype, device = rows_of(users, items), DTYPES[precision], target().device
    x0 = rows.dense().to(device)
    sparse, (signal, sigma, keys) = arrays(rows)

    def package(impl: str) -> Callable[[], torch.Tensor]:
        arguments = *sparse, items, signal, sigma, DROPOUT
        where: dict[str, Any] = {"users": keys, "dtype": dtype, "device": device}
        return partial(noisy_input, *arguments, **KEY, **where, impl=impl)

    def plain(x0: torch.Tensor) -> torch.Tensor:
        return plain_noise(x0).to(dtype)

    return Case(
        {impl: Implementation(partial(package, impl)) for impl in target().kernels}
        | {"reference": Implementation(partial(package, "reference"), timed=not target().gpu)}
        | eager(
            "torch randn + dropout",
            lambda forward: forward(x0),
            plain,
            comparable=False,
            note=OTHER_NUMBERS,
        ),
        reference="reference",
        baseline="torch randn + dropout" if target().gpu else "",
        floor=Floor(bytes=dtype.itemsize * users * items),
        rtol=1e-4 if precision == "fp32" else 1.6e-2,
        atol=1e-5,
    )
