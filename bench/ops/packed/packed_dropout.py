"""Dropout of the tokens of a training batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.data import source
from bench.dense import DTYPES
from bench.ops.packed._sequences import (
    DROPOUT,
    FIELDS,
    OTHER_NUMBERS,
    batch_of,
    indptr_and_key,
)
from bench.registry import Case, Floor, Implementation, call, operation
from bench.target import eager, target
from pdrec_fast.ops.packed.packed_dropout import packed_dropout


@operation(
    "packed_dropout",
    "kernel",
    **FIELDS,
)
def dropout(users: int, items: int, width: int, precision: str) -> Case:
    """Forward only: the gradient is the same operation."""
    batch, device = batch_of(users, items), target().device
    x = torch.randn(batch.n_tokens, width, generator=torch.Generator().manual_seed(0))
    x = x.to(DTYPES[precision])

    def package(impl: str, device: torch.device) -> Implementation:
        indptr, key = indptr_and_key(batch, device)
        return call(packed_dropout, x.to(device), indptr, DROPOUT, key=key, stream=0, impl=impl)

    reference = package("reference", torch.device("cpu")).prepare
    here = x.to(device)
    return Case(
        {impl: package(impl, device) for impl in target().kernels}
        | {"reference": Implementation(reference, timed=not target().gpu)}
        | eager(
            "torch dropout",
            lambda forward: forward(here, DROPOUT),
            F.dropout,
            comparable=False,
            note=OTHER_NUMBERS,
        ),
        reference="reference",
        baseline="torch dropout" if target().gpu else "",
        floor=Floor(bytes=2 * x.nbytes),
        rtol=1e-6 if precision == "fp32" else 1.6e-2,
        sizes={"tokens": batch.n_tokens},
        data=source(users, items),
    )
