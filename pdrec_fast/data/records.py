"""What every reader ends in: rows in the order of their source, ids as dense indices."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from pdrec_fast.data.times import Times
from pdrec_fast.errors import DataError

Where = Callable[[int, Any], str]
"""Row (from 0) and column -> the words that tell the user where that value stands."""

Label = str | int
"""Name of a column, or its position from 0."""


class NoRecordsError(DataError):
    """A source without any record; one part of a folder may be so."""


class ColumnNames(NamedTuple):
    """The columns to read; None means the default name, and no ratings.

    An integer is the column of that label where there is one, as in a headerless data frame, and
    else the position.
    """

    user: Label | None = None
    item: Label | None = None
    timestamp: Label | None = None
    rating: Label | None = None


class Columns(NamedTuple):
    """Positions of the columns to read (None: absent), and the labels of all."""

    user: int
    item: int
    timestamp: int | None
    rating: int | None
    labels: Sequence[Any]

    @property
    def used(self) -> list[int]:
        """Positions of those that are there: user, item, timestamp, rating."""
        return [place for place in self[:4] if place is not None]


class Remark(NamedTuple):
    """What a reader found odd and read nevertheless; told in a warning.

    Attributes:
        kind: remarks of one kind are told together.
        n: how often.
        place: where first.
        text: what, with ``{n}`` for how often.
    """

    kind: tuple[str, str]
    n: int
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text.replace('{n}', str(self.n))}"


@dataclass(frozen=True, eq=False)
class Records:
    """Interactions in the order of their source.

    Attributes:
        users: int64 [n], index into ``user_ids``.
        items: int64 [n], index into ``item_ids``.
        times: of the n records, or None.
        user_ids: sorted raw ids, int64 or str objects.
        item_ids: sorted raw ids, int64 or str objects.
        source: what the rows were read from, for messages.
        ratings: float64 [n], finite, where they were asked for.
        remarks: what is to be told.
    """

    users: np.ndarray
    items: np.ndarray
    times: Times | None
    user_ids: np.ndarray
    item_ids: np.ndarray
    source: str
    ratings: np.ndarray | None = None
    remarks: tuple[Remark, ...] = ()

    @property
    def timestamps(self) -> np.ndarray | None:
        """float64 [n], finite, or None."""
        return None if self.times is None else self.times.values

    def __getitem__(self, rows: np.ndarray) -> Records:
        """Some rows, with all ids."""
        return replace(
            self,
            users=self.users[rows],
            items=self.items[rows],
            times=None if self.times is None else self.times[rows],
            ratings=None if self.ratings is None else self.ratings[rows],
        )


def no_records(source: str) -> str:
    return f"{source}: no records, only column names; expected at least one row"


def resolve_columns(names: ColumnNames, labels: Sequence[Any], source: str) -> Columns:
    """Where the columns to read stand.

    Raises:
        DataError: a column is missing or occurs more than once, or is given as two.
        TypeError: a column is given by something else than a name or a position.
    """
    for argument, name in names._asdict().items():
        if isinstance(name, bool) or not isinstance(name, (str, int, type(None))):
            raise TypeError(f"{argument}={name!r}: give a column by its name or its position")
    user = _find("user_id" if names.user is None else names.user, "user", labels, source)
    item = _find("item_id" if names.item is None else names.item, "item", labels, source)
    timestamp = rating = None
    if names.timestamp is not None or "timestamp" in labels:
        wanted = "timestamp" if names.timestamp is None else names.timestamp
        timestamp = _find(wanted, "timestamp", labels, source)
    if names.rating is not None:
        rating = _find(names.rating, "rating", labels, source)
    columns = Columns(user, item, timestamp, rating, labels)
    _check_distinct(columns, source)
    return columns


def _check_distinct(columns: Columns, source: str) -> None:
    taken: dict[int, str] = {}
    for argument, place in zip(ColumnNames._fields, columns[:4], strict=True):
        if place is not None and place in taken:
            raise DataError(
                f"{source}: column {columns.labels[place]!r} is given as {taken[place]} and as "
                f"{argument}: pass another {argument}=, on the command line --{argument}-column"
            )
        if place is not None:
            taken[place] = argument


def _find(name: Label, argument: str, labels: Sequence[Any], source: str) -> int:
    places = [place for place, label in enumerate(labels) if _is_called(label, name)]
    if len(places) == 1:
        return places[0]
    if places:
        raise DataError(
            f"{source}: column {name!r} occurs {len(places)} times; rename the copies or pass "
            f"{argument}=<position>"
        )
    if isinstance(name, int) and 0 <= name < len(labels):
        return name
    if isinstance(name, int):
        raise DataError(
            f"{source}: no column at position {name} for {argument}=; positions run from 0 to "
            f"{len(labels) - 1}: {list(labels)}"
        )
    found = re.search(r"[;,|\t]", str(labels[0])) if len(labels) == 1 else None
    if found:
        raise DataError(
            f"{source}: the only column is {labels[0]!r}, as if {found[0]!r} stood between "
            "columns; .csv takes commas, .tsv and .inter tabs: convert or rename the file"
        )
    advice = "a file needs a header line, else pass header=False, --no-header, and positions"
    raise DataError(
        f"{source}: no column {name!r}; the columns are {list(labels)}. "
        f"Pass {argument}=<name of the {argument} column>, on the command line "
        f"--{argument}-column ({advice})"
    )


def _is_called(label: Any, name: Label) -> bool:
    """Whether a label is the name, an integer being the same as its digits."""
    return label == name or (isinstance(name, int) and label == str(name))
