"""Scores of a block of histories under a sparse item matrix, as of the linear denoiser."""

from __future__ import annotations

import numpy as np

from bench.data import split
from bench.registry import Case, Floor, call, operation
from pdrec_fast.ops.denoising.sparse_product import sparse_product


@operation(
    "sparse_product",
    "kernel",
    sizes={"users": 346, "items": 12_101, "neighbors": 200},
    small={"users": 5, "items": 301, "neighbors": 7},
)
def product(users: int, items: int, neighbors: int) -> Case:
    """Dense scores; the matrix has as many entries for every item that is scored."""
    rng = np.random.default_rng(0)
    sources = np.sort(rng.integers(items, size=items * neighbors))
    columns = rng.integers(items, size=items * neighbors).astype(np.int32)
    values = rng.normal(size=len(columns)).astype(np.float32)
    matrix = np.searchsorted(sources, np.arange(items + 1)), columns, values
    indptr, found, _ = split(users, items).train.histories().packed()
    given = indptr, found, np.ones(len(found), dtype=np.float32), matrix, items
    return Case(
        {impl: call(sparse_product, *given, impl=impl) for impl in ("cpp", "reference")},
        reference="reference",
        floor=Floor(bytes=4.0 * users * items),
        atol=1e-4,
    )
