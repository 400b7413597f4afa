"""The data that operations run on: the real sets where they are, else generated ones as large."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np

import pdrec_fast as pf
from pdrec_fast.data import Split

TOY = {"users": 7_996, "items": 37_868}
BOOK = {"users": 12_170, "items": 33_697}
BEAUTY = {"users": 22_363, "items": 12_101}
_REAL = {
    (7_996, 37_868): "toy.inter",
    (12_170, 33_697): "book.inter",
    (22_363, 12_101): "beauty.inter",
}


def data_folder() -> Path:
    """Where real data are looked for: ``$PDREC_DATA``, else ``shared/data`` beside the source."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("PDREC_DATA", beside))


def real_file(users: int, items: int) -> Path | None:
    """The real data set of exactly this size, or None."""
    name = _REAL.get((users, items))
    path = data_folder() / name if name else None
    return path if path and path.is_file() else None


def source(users: int, items: int) -> str:
    """What ``interactions`` of this size are, for the row."""
    real = real_file(users, items)
    if real:
        return real.name
    missing = _REAL.get((users, items))
    return f"synthetic ({missing} not found)" if missing else "synthetic"


@lru_cache(maxsize=16)
def interactions(users: int, items: int) -> pf.Interactions:
    """The real data set of this size where it is at hand, else ``pf.synthetic`` of this size."""
    real = real_file(users, items)
    return pf.Interactions.from_file(real) if real else pf.synthetic(users, items)


@lru_cache(maxsize=16)
def split(users: int, items: int) -> Split:
    """``interactions`` left one out."""
    return pf.leave_one_out(interactions(users, items))


def equally_long(users: int, items: int, length: int) -> pf.Interactions:
    """Users of ``length`` records each, items drawn uniformly."""
    rng = np.random.default_rng(0)
    return pf.Interactions(
        indptr=np.arange(users + 1) * length,
        items=rng.integers(items, size=users * length),
        timestamps=np.tile(np.arange(length, dtype=np.float64), users),
        user_ids=np.arange(users),
        item_ids=np.arange(items),
    )
