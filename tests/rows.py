"""Data made of rows of items."""

from collections.abc import Sequence

import numpy as np

from pdrec_fast.data import Histories, Interactions
from pdrec_fast.data.sequences import PackedSequences, pack
from pdrec_fast.ragged import Ragged

Rows = Sequence[Sequence[int]]


def ragged(rows: Rows) -> Ragged:
    items = np.array([item for row in rows for item in row], dtype=np.int32)
    return Ragged.from_lengths(items, np.array([len(row) for row in rows], dtype=np.int64))


def interactions_of(rows: Rows, n_items: int) -> Interactions:
    """Users "user 0", "user 1", ... without timestamps."""
    items = ragged(rows)
    names = np.array([f"user {u}" for u in range(len(rows))], dtype=object)
    return Interactions(items.indptr, items.values, None, names, np.arange(n_items))


def packed(
    rows: Rows,
    n_items: int,
    max_length: int,
    *,
    users: Sequence[int] | None = None,
    seed: int | None = None,
    epoch: int = 0,
    times: Sequence[Sequence[float]] | None = None,
) -> PackedSequences:
    items = ragged(rows)
    owners = np.arange(len(rows)) if users is None else np.array(users)
    stamps = None if times is None else np.concatenate([np.zeros(0), *map(np.asarray, times)])
    histories = Histories(items.values, stamps, owners, items.starts, items.indptr[1:], n_items)
    return pack(histories, max_length, seed=seed, epoch=epoch, times=times is not None)


def random_rows(lengths: Sequence[int], n_items: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(n_items, size=length).tolist() for length in lengths]
