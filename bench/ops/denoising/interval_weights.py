"""Time-interval weights of all of a data set's records."""

from __future__ import annotations

from bench.data import BOOK, interactions, source
from bench.registry import Case, Floor, call, operation
from pdrec_fast.ops.denoising.interval_weights import interval_weights


@operation(
    "interval_weights",
    "kernel",
    sizes=BOOK,
    small={"users": 50, "items": 301},
    check_at_size=True,
)
def weights(users: int, items: int) -> Case:
    """The paper's w_j of every record, for records already in order."""
    data = interactions(users, items)
    arguments = data.indptr, data.timestamps, 0.3, 1.0
    return Case(
        {
            "numba": call(interval_weights, *arguments, impl="numba"),
            "reference": call(interval_weights, *arguments, impl="reference"),
        },
        reference="reference",
        floor=Floor(bytes=data.n_records * (8 + 4)),
        sizes={"records": data.n_records},
        data=source(users, items),
    )
