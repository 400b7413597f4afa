"""Which records are kept: by rating, date, number of records, repetition, and a sample of users."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from pdrec_fast.data.ordering import chronological_order, stable_order
from pdrec_fast.data.records import Records
from pdrec_fast.data.times import Moment, as_moment
from pdrec_fast.errors import DataError
from pdrec_fast.random_keys import user_sample

logger = logging.getLogger("pdrec_fast")

Repeats = Literal["keep", "first", "last"]
"""What becomes of a (user, item) pair that occurs again: all kept, or only the first or last."""


@dataclass(frozen=True)
class Filters:
    """What of the records is kept; see ``Interactions.from_file``.

    Raises:
        ValueError: an option out of its range.
    """

    min_user: int = 1
    min_item: int = 1
    repeats: str = "keep"
    since: Any = None
    until: Any = None
    min_rating: float | None = None
    limit_users: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_user", "min_item", "limit_users"):
            value = getattr(self, name)
            if value is None and name == "limit_users":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.repeats not in get_args(Repeats):
            raise ValueError(f"repeats must be one of {get_args(Repeats)}, got {self.repeats!r}")
        rating = 0 if self.min_rating is None else self.min_rating
        if not isinstance(rating, Real) or not math.isfinite(rating):
            raise ValueError(f"min_rating must be a finite number, got {self.min_rating!r}")
        since, until = self._moment("since"), self._moment("until")
        if since and until and since.dated == until.dated and since >= until:
            raise ValueError(f"need since < until, got {self.since} and {self.until}")

    def rows(self, records: Records) -> np.ndarray:
        """int64: the records kept, by user and time; equal times in the order of the source.

        Raises:
            DataError: nothing is left, or there are no timestamps for a range of them.
        """
        kept = self._in_range(records)
        chosen = records if kept is None else records[kept]
        times = chosen.times
        rows = (
            chronological_order(chosen.users, None)
            if times is None
            else chronological_order(chosen.users, times.keys, times.part)
        )
        rows = _without_repeats(rows, chosen.users, chosen.items, self.repeats)
        rows = self._core(rows, chosen)
        if self.limit_users is not None and len(rows):
            present = np.flatnonzero(np.bincount(chosen.users[rows]))
            if len(present) > self.limit_users:
                sample = np.zeros(len(records.user_ids), bool)
                sample[user_sample().permutation(present)[: self.limit_users]] = True
                rows = self._core(rows[sample[chosen.users[rows]]], chosen)
        rows = rows if kept is None else kept[rows]
        if len(rows) == 0:
            raise DataError(self._nothing_left(records))
        if kept is not None or self.limit_users is not None:
            logger.info("%s: %d of %d records kept", records.source, len(rows), len(records.users))
        return rows

    def _moment(self, name: str) -> Moment | None:
        value = getattr(self, name)
        return None if value is None else as_moment(value, name)

    def _in_range(self, records: Records) -> np.ndarray | None:
        """int64: records with the ratings and times asked for; None for all."""
        masks = []
        if self.min_rating is not None and records.ratings is not None:
            masks.append(records.ratings >= self.min_rating)
        for name in ("since", "until"):
            moment = self._moment(name)
            if moment is None:
                continue
            times = records.times
            if times is None:
                raise DataError(
                    f"{records.source}: {name}={getattr(self, name)!r} needs timestamps, and there "
                    "are none; pass timestamp=, on the command line --timestamp-column"
                )
            words = f"{name}={getattr(self, name)}"
            early = times.before(moment.in_unit_of(times.values, times.dated, words))
            masks.append(~early if name == "since" else early)
        return np.flatnonzero(np.logical_and.reduce(masks)) if masks else None

    def _core(self, rows: np.ndarray, records: Records) -> np.ndarray:
        """The largest part of ``rows`` in which both minima hold."""
        if self.min_user == self.min_item == 1:
            return rows
        users, items = records.users[rows], records.items[rows]
        while len(rows):
            enough = (np.bincount(users) >= self.min_user)[users]
            enough &= (np.bincount(items) >= self.min_item)[items]
            if enough.all():
                break
            rows, users, items = rows[enough], users[enough], items[enough]
        return rows

    def _nothing_left(self, records: Records) -> str:
        given = {"min_user": self.min_user, "min_item": self.min_item, "repeats": self.repeats}
        others = {name: getattr(self, name) for name in ("since", "until", "min_rating")}
        given |= {name: value for name, value in others.items() if value is not None}
        asked = ", ".join(f"{name}={value!r}" for name, value in given.items())
        found, advice = "", "lower the minima"
        if (self.since is not None or self.until is not None) and records.times is not None:
            values = records.times.values
            found = f" (the timestamps run from {values.min()} to {values.max()})"
            advice = "lower the minima or widen the range"
        return (
            f"{records.source}: none of {len(records.users)} records is left with {asked}{found}; "
            f"{advice}"
        )


def _without_repeats(
    rows: np.ndarray, users: np.ndarray, items: np.ndarray, repeats: str
) -> np.ndarray:
    """Those of the chronological ``rows`` that stay."""
    if repeats == "keep" or len(rows) == 0:
        return rows
    pairs = (users * (items.max() + 1) + items)[rows]
    order = stable_order(pairs)
    ends = np.flatnonzero(np.diff(pairs[order], append=-1))
    kept = np.zeros(len(rows), bool)
    kept[order[ends] if repeats == "last" else order[np.append(0, ends[:-1] + 1)]] = True
    return rows[kept]
