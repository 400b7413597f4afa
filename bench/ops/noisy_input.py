"""The noised, dropped-out input of a diffusion training step."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from bench.data import split
from bench.dense import DTYPES
from bench.registry import Case, Floor, Implementation, call, operation
from pdrec_fast.diffusion.inputs import interaction_rows
from pdrec_fast.ops.noisy_input import noisy_input

DROPOUT = 0.5


def _make(users: int, items: int, precision: str) -> Case:
    histories = split(users, items).train.histories()
    rows = interaction_rows(histories, weighting="interval", w_min=0.5, w_max=1.0)
    dtype, x0 = DTYPES[precision], rows.dense()
    signal, sigma = torch.full((users,), 0.99), torch.full((users,), 0.01)

    def package(impl: str) -> torch.Tensor:
        return noisy_input(
            rows.indptr,
            rows.items,
            rows.values,
            items,
            signal,
            sigma,
            DROPOUT,
            seed=0,
            epoch=0,
            users=np.arange(users),
            dtype=dtype,
            impl=impl,
        )

    def eager() -> torch.Tensor:
        noised = signal[:, None] * x0 + sigma[:, None] * torch.randn(users, items)
        return F.dropout(noised, DROPOUT).to(dtype)

    return Case(
        {
            "cpp": call(package, "cpp"),
            "reference": call(package, "reference"),
            "torch randn + dropout": Implementation(
                lambda: eager, comparable=False, note="other random numbers, from dense rows"
            ),
        },
        reference="reference",
        floor=Floor(bytes=dtype.itemsize * users * items),
        rtol=1e-4 if precision == "fp32" else 1.6e-2,
        atol=1e-5,
    )


for _precision in DTYPES:
    operation(
        f"noisy_input_{_precision}",
        "kernel",
        sizes={"users": 100, "items": 37_868, "precision": _precision},
        small={"users": 7, "items": 301, "precision": _precision},
        check_at_size=True,
    )(_make)
