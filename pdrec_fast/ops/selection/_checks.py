"""Checks that several selections share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def check_ranks(
    first_rank: npt.NDArray[np.int64], indptr: npt.NDArray[np.int64], n_items: int
) -> None:
    """Check that every row has an unobserved item at its rank.

    Raises:
        ValueError: one has not; its pool would be empty.
    """
    n_unobserved = n_items - np.diff(indptr)
    outside = (first_rank < 0) | (first_rank >= n_unobserved)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(
            f"first_rank must lie in 0 .. {n_unobserved[row] - 1} in row {row}, which has "
            f"{n_unobserved[row]} unobserved items, got {first_rank[row]}: its pool would be empty"
        )
