"""How much of the padded layout is padding; the packed one has none."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.data import BOOK, TOY, source, split
from bench.registry import fact

MAX_LENGTH = 200


@fact("padding_share")
def padding_share() -> list[dict[str, Any]]:
    """Share of the positions of training inputs, padded to 200, that hold no token."""
    rows = []
    for sizes in (TOY, BOOK):
        lengths = np.minimum(np.diff(split(**sizes).train.indptr) - 1, MAX_LENGTH)
        lengths = lengths[lengths >= 1]
        rows.append(
            {
                "value": float(1 - lengths.sum() / (MAX_LENGTH * len(lengths))),
                "unit": f"of positions padded to {MAX_LENGTH} are padding; packed: none",
                "sizes": sizes,
                "data": source(**sizes),
            }
        )
    return rows
