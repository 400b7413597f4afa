"""What every reader ends in: rows in the order of their source, ids as dense indices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pdrec_fast.data.ordering import stable_order
from pdrec_fast.errors import DataError

LARGEST_TIME = 2.0**53
"""Beyond, neighbouring integers are one float64."""

_TABLE_SLOTS_PER_ROW = 4  # a larger table costs more than sorting


class ColumnNames(NamedTuple):
    """Names of the columns to read; None means the default name."""

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None


@dataclass(frozen=True, eq=False)
class Records:
    """Interactions in the order of their source.

    Attributes:
        users: int64 [n], index into ``user_ids``.
        items: int64 [n], index into ``item_ids``.
        timestamps: float64 [n], finite, or None.
        user_ids: sorted raw ids, int64 or str objects.
        item_ids: sorted raw ids, int64 or str objects.
        source: what the rows were read from, for messages.
    """

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray
    source: str


def resolve_columns(
    names: ColumnNames, columns: list[str], source: str
) -> tuple[str, str, str | None]:
    """Names of the user, item and timestamp columns (None: there are no timestamps).

    Raises:
        DataError: a column is missing or occurs more than once.
    """
    user = _find(names.user or "user_id", "user", columns, source)
    item = _find(names.item or "item_id", "item", columns, source)
    if names.timestamp is None and "timestamp" not in columns:
        return user, item, None
    return user, item, _find(names.timestamp or "timestamp", "timestamp", columns, source)


def _find(name: str, argument: str, columns: list[str], source: str) -> str:
    count = columns.count(name)
    if count == 0:
        found = re.search(r"[;,|\t]", str(columns[0])) if len(columns) == 1 else None
        if found:
            raise DataError(
                f"{source}: the only column is {columns[0]!r}, as if {found[0]!r} stood between "
                "columns; .csv takes commas, .tsv and .inter tabs: convert or rename the file"
            )
        raise DataError(
            f"{source}: no column {name!r}; the columns are {columns}. "
            f"Pass {argument}=<name of the {argument} column>, on the command line "
            f"--{argument}-column (a file needs a header line)"
        )
    if count > 1:
        raise DataError(f"{source}: column {name!r} occurs {count} times; rename the copies")
    return name


def rank_ids(codes: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Renumber ids in sorted order.

    Args:
        codes: integer [n], each row's index into ``names``.
        names: distinct raw ids.

    Returns:
        int64 [n], each row's index into the sorted ids, and these: int64 where every name is an
        integer that fits, in the one way ``str`` writes it, else str objects.
    """
    ids = _as_integers(names)
    if ids is None:
        ids = np.array(names, dtype=object)
    order = np.argsort(ids, kind="stable")
    ranks = np.empty(len(ids), np.int64)
    ranks[order] = np.arange(len(ids))
    return ranks[codes], ids[order]


def rank_integers(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices into the sorted distinct ids, int64 [n], and these, int64.

    Args:
        ids: int64 [n], n > 0.
    """
    lowest = int(ids.min())
    span = int(ids.max()) - lowest + 1
    if span <= _TABLE_SLOTS_PER_ROW * len(ids):
        offsets = ids - lowest
        present = np.zeros(span, bool)
        present[offsets] = True
        return (np.cumsum(present) - 1)[offsets], np.flatnonzero(present) + lowest
    order = stable_order(ids)
    ascending = ids[order]
    new = np.append(True, ascending[1:] != ascending[:-1])
    ranks = np.empty(len(ids), np.int64)
    ranks[order] = np.cumsum(new) - 1
    return ranks, ascending[new]


def _as_integers(names: list[str]) -> np.ndarray | None:
    try:
        numbers = list(map(int, names))
        return np.array(numbers, np.int64) if list(map(str, numbers)) == names else None
    except (ValueError, OverflowError):
        return None
