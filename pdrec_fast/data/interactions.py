"""The interactions of users with items: one immutable, chronologically ordered CSR structure."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pdrec_fast.checks import check_ordered
from pdrec_fast.data.catalogue import Catalogue, json_of
from pdrec_fast.data.filters import Filters, Repeats
from pdrec_fast.data.frames import check_lengths, column_values, read_columns, read_frame
from pdrec_fast.data.histories import Histories
from pdrec_fast.data.ids import first_names
from pdrec_fast.data.item_features import check_features, extended
from pdrec_fast.data.ordering import check_times
from pdrec_fast.data.readers import read_file
from pdrec_fast.data.records import ColumnNames, Columns, Label, Records
from pdrec_fast.data.store import is_store, open_store
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import Ragged, indptr_of, row_indices, unique_in_rows

_MOSTLY_TIED = 0.9  # share of records from which on equal times are no longer usual
_FEW_RECORDS = 10


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """Every user's items in chronological order, with dense indices and the raw ids behind them.

    User ``u`` has the records ``indptr[u]:indptr[u + 1]``. A user or an item may have no records
    (in the training part of a split). The arrays are read-only. Make one with :meth:`from_file`,
    :meth:`from_frame` or :meth:`from_arrays`.

    Attributes:
        indptr: int64 [n_users + 1].
        items: int32 [n_records], item indices.
        timestamps: float64 [n_records], finite, ascending within a user; or None.
        user_ids: [n_users] distinct raw ids, int64 or str objects.
        item_ids: [n_items] distinct raw ids, int64 or str objects.
        target_items: bool [n_items], the items that splits hold out, that evaluation ranks and that
            models recommend, the others being context (see ``mix_domains``); None for all.
        item_features: float32 [n_items, F], what is known of the items beside their records, such
            as embeddings of their texts (see ``with_item_features``); None for nothing.

    Raises:
        DataError: arrays that do not fit together.
    """

    indptr: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray
    target_items: np.ndarray | None = None
    item_features: np.ndarray | None = None

    def __post_init__(self) -> None:
        self._freeze("indptr", np.int64)
        self._freeze("items", np.int32)
        self._freeze("user_ids", _id_dtype(self.user_ids))
        self._freeze("item_ids", _id_dtype(self.item_ids))
        if self.timestamps is not None:
            self._freeze("timestamps", np.float64)
        if self.target_items is not None:
            self._freeze("target_items", bool)
        if self.item_features is not None:
            self._freeze("item_features", np.float32)
        self._check()

    def __reduce__(self) -> tuple[Any, ...]:
        # By the constructor: copies are read-only again and carry nothing that was computed.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def _freeze(self, name: str, dtype: type) -> None:
        given = getattr(self, name)
        array: np.ndarray = np.ascontiguousarray(given, dtype=dtype)
        if array.flags.writeable:
            if np.may_share_memory(array, given):
                array = array.copy()  # so that changes of the caller's array do not reach it
            array.flags.writeable = False
        object.__setattr__(self, name, array)

    def _check(self) -> None:
        if len(self.indptr) != self.n_users + 1:
            raise DataError(f"indptr has {len(self.indptr)} values for {self.n_users} user ids")
        if self.indptr[0] != 0 or self.indptr[-1] != self.n_records:
            raise DataError(f"indptr must run from 0 to the number of records, {self.n_records}")
        if (np.diff(self.indptr) < 0).any():
            raise DataError("indptr must not decrease")
        if self.n_records and not (self.items.min() >= 0 and self.items.max() < self.n_items):
            raise DataError(f"items must lie in 0..{self.n_items - 1}")
        if self.target_items is not None and len(self.target_items) != self.n_items:
            raise DataError(f"target_items has {len(self.target_items)} values, not {self.n_items}")
        if self.item_features is not None:
            check_features(self.item_features, self.item_ids)
        if self.timestamps is None:
            return
        if len(self.timestamps) != self.n_records:
            raise DataError(f"{len(self.timestamps)} timestamps for {self.n_records} records")
        check_times(self.timestamps, self.indptr)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        user: Label | None = None,
        item: Label | None = None,
        timestamp: Label | None = None,
        rating: Label | None = None,
        header: bool = True,
        min_user: int = 1,
        min_item: int = 1,
        repeats: Repeats = "keep",
        since: Any = None,
        until: Any = None,
        min_rating: float | None = None,
        limit_users: int | None = None,
    ) -> Interactions:
        """Read a file, a folder of parts as Spark and others write it, or a store of ``prepare``.

        RecBole ``.inter``, ``.csv``, ``.tsv``, JSON lines (``.jsonl``, ``.ndjson``), which may be
        compressed (``.csv.gz``, ``.zst``, ``.zip`` of one file); Parquet; Arrow (``.arrow``,
        ``.feather``, ``.ipc``). The parts of a folder are of one kind and are read in the order of
        their names, hidden files, ``_SUCCESS`` and check sums left out.

        Ids become int64 when every one of the column is a whole number (``90``, or ``90.0`` as a
        join may write it), else str; indices follow the sorted ids. In ``.inter`` and ``.tsv`` a
        quotation mark is part of an id. What is odd, such as ids that read ``nan`` or have spaces
        at their ends, is read as it stands and counted in a warning.

        Times are numbers or dates: ISO 8601 text or a datetime column of any resolution; without a
        zone they are UTC. Dates become unix seconds. Numbers are kept as they are, whatever their
        unit: time-interval weights only compare a user's times with each other (``half_life`` has
        the unit of the timestamps). The order is decided on the exact times, nanoseconds too, even
        where float64 merges them; records of equal time keep their order in the file. Without
        timestamps the order of the file counts as chronological, and a warning says so. Ordinary
        text is read several times faster where pyarrow is installed, to the same result.

        Args:
            path: the file or folder; text is UTF-8.
            user: the user column, by default ``user_id``. A column is a name or a position from 0;
                an integer that is itself the label of a column is that column.
            item: the item column, by default ``item_id``.
            timestamp: the time column, by default ``timestamp``, which may be absent.
            rating: the rating column, by default ``rating``; read for ``min_rating`` alone.
            header: False where a delimited text has no header line: columns are positions.
            min_user: least number of records of a user.
            min_item: least number of records of an item; users and items with fewer are removed
                until both minima hold.
            repeats: ``"keep"`` every record of a (user, item) pair, or only the ``"first"`` or
                ``"last"``; applied before the minima. A warning counts those kept of equal time.
            since: records at or after this time: a number in the unit of the timestamps, or a date
                or time (ISO 8601 text, ``datetime``, ``Timestamp``, ``datetime64``), for which the
                unit of integer timestamps (seconds to nanoseconds) is told from their size.
            until: records before this time. Both are applied before ``repeats``.
            min_rating: records rated so or better, before ``repeats``.
            limit_users: at most so many users, a sample by a fixed seed of those that the other
                options leave: the same number and data give the same users. The minima then hold
                for what remains.

        Raises:
            FileNotFoundError: there is no such file.
            DataError: the file cannot be used; names the file, line (header = 1) and column.
            ValueError: an option out of its range.
            MissingExtraError: Parquet, Arrow or ``.zst`` without pyarrow.
        """
        filters = Filters(min_user, min_item, repeats, since, until, min_rating, limit_users)
        names = ColumnNames(user, item, timestamp, _rating_column(rating, filters))
        if is_store(path):
            if (filters, names, header) != (Filters(), ColumnNames(), True):
                raise ValueError(
                    f"{path}: a store is opened as it was prepared; give columns and filters to "
                    "pdrec-fast prepare"
                )
            return cls.from_store(path)
        return cls._from_records(read_file(path, names, header), filters)

    @classmethod
    def from_store(cls, path: str | Path, *, part: tuple[int, int] | None = None) -> Interactions:
        """Open what ``pdrec-fast prepare`` wrote: the arrays stay on disk, mapped to memory.

        Args:
            path: the store (``docs/scale.md``).
            part: ``(i, n)``, of the users' n shares the i-th, from 0, with the items of all; n is
                at most the store's number of parts. Every user is in one share. A share of several
                parts, as None (all) may be, is joined in memory.

        Raises:
            FileNotFoundError: there is no such store.
            DataError: it is damaged, of another version, or no store; names the file.
            ValueError: no such part.
            MissingExtraError: ids are text, and pyarrow is not installed.
        """
        return cls(*open_store(path, part))

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        user: Label | None = None,
        item: Label | None = None,
        timestamp: Label | None = None,
        rating: Label | None = None,
        min_user: int = 1,
        min_item: int = 1,
        repeats: Repeats = "keep",
        since: Any = None,
        until: Any = None,
        min_rating: float | None = None,
        limit_users: int | None = None,
    ) -> Interactions:
        """Read a table in memory; see :meth:`from_file` for the options.

        Args:
            frame: a pandas or polars data frame (lazy, too), a pyarrow table or record batch
                reader, a DuckDB relation, anything else with ``__arrow_c_stream__``, or a dict of
                columns. Errors name the row (counted from 0) and column.

        Raises:
            TypeError: ``frame`` is none of these.
            DataError: a value that cannot be used; names the row (counted from 0) and column.
            ValueError: an option out of its range.
        """
        filters = Filters(min_user, min_item, repeats, since, until, min_rating, limit_users)
        names = ColumnNames(user, item, timestamp, _rating_column(rating, filters))
        return cls._from_records(read_frame(frame, names), filters)

    @classmethod
    def from_arrays(
        cls,
        users: Any,
        items: Any,
        timestamps: Any = None,
        *,
        ratings: Any = None,
        min_user: int = 1,
        min_item: int = 1,
        repeats: Repeats = "keep",
        since: Any = None,
        until: Any = None,
        min_rating: float | None = None,
        limit_users: int | None = None,
    ) -> Interactions:
        """Read sequences or arrays of raw ids and times; see :meth:`from_file` for the options.

        Args:
            users: [n] str or whole-number ids.
            items: [n] str or whole-number ids.
            timestamps: [n] numbers, datetime64, or objects such as ``datetime`` or ISO 8601 text;
                None takes the order as chronological.
            ratings: [n] numbers, for ``min_rating``.

        Raises:
            ValueError: the lengths differ.
            DataError: a value that cannot be used; names the row (counted from 0) and column.
        """
        filters = Filters(min_user, min_item, repeats, since, until, min_rating, limit_users)
        if (ratings is None) != (min_rating is None):
            raise ValueError("ratings= and min_rating= need each other: give both or neither")
        given = {"users": users, "items": items, "timestamps": timestamps, "ratings": ratings}
        given = {name: values for name, values in given.items() if values is not None}
        check_lengths(given)
        labels = list(given)
        places = [labels.index(name) if name in given else None for name in _ARRAYS]
        columns = Columns(0, 1, places[2], places[3], labels)
        values = [column_values(column) for column in given.values()]
        return cls._from_records(read_columns(values, columns, "the arrays"), filters)

    @classmethod
    def _from_records(cls, records: Records, filters: Filters) -> Interactions:
        for remark in records.remarks:
            warnings.warn(str(remark), stacklevel=3)
        if records.times is None:
            warnings.warn(
                f"no timestamps in {records.source} (if a column of another name holds them, pass "
                "timestamp=, on the command line --timestamp-column): the order of its records is "
                "taken as chronological, and weights by time (TI-DiffRec's) are weights by rank",
                stacklevel=3,
            )
        rows = filters.rows(records)
        kept = records[rows]
        for text in _odd_times(kept):
            warnings.warn(text, stacklevel=3)
        users, user_ids = kept.users, records.user_ids
        items, item_ids = kept.items, records.item_ids
        if len(rows) < len(records.users):
            users, user_ids = _compact(users, user_ids)
            items, item_ids = _compact(items, item_ids)
        return cls(
            indptr=indptr_of(np.bincount(users)),
            items=items,
            timestamps=kept.timestamps,
            user_ids=user_ids,
            item_ids=item_ids,
        )

    def __repr__(self) -> str:
        return (
            f"Interactions({self.n_users} users, {self.n_items} items"
            f"{'' if self.target_items is None else f' ({self.n_targets} of the target domain)'}, "
            f"{self.n_records} records, {'no ' if self.timestamps is None else ''}timestamps)"
        )

    @property
    def n_users(self) -> int:
        """Number of users, those without records included."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items, those without records included."""
        return len(self.item_ids)

    @property
    def n_targets(self) -> int:
        """Number of items that can be recommended: those of ``target_items``, or all."""
        return self.n_items if self.target_items is None else int(self.target_items.sum())

    @property
    def n_records(self) -> int:
        """Number of interactions."""
        return len(self.items)

    @property
    def record_users(self) -> np.ndarray:
        """int64 [n_records], the user of each record."""
        return row_indices(self.indptr)

    def user_index(self, raw_ids: Any) -> np.ndarray:
        """Indices, int64 [k], of raw user ids: one id or several, ``17`` and ``"17"`` alike.

        Raises:
            DataError: unknown ids; names up to five.
        """
        return _look_up(raw_ids, self._user_numbers, "user")

    def item_index(self, raw_ids: Any) -> np.ndarray:
        """Indices, int64 [k], of raw item ids: one id or several, ``17`` and ``"17"`` alike.

        Raises:
            DataError: unknown ids; names up to five.
        """
        return _look_up(raw_ids, self._item_numbers, "item")

    def find_users(self, raw_ids: Any) -> np.ndarray:
        """Like ``user_index``, with -1 for an unknown id."""
        return _find(raw_ids, self._user_numbers)

    def find_items(self, raw_ids: Any) -> np.ndarray:
        """Like ``item_index``, with -1 for an unknown id."""
        return _find(raw_ids, self._item_numbers)

    @cached_property
    def _user_numbers(self) -> dict[str, int]:
        return {str(name): number for number, name in enumerate(self.user_ids.tolist())}

    @cached_property
    def _item_numbers(self) -> dict[str, int]:
        return {str(name): number for number, name in enumerate(self.item_ids.tolist())}

    def unique_items(self) -> Ragged:
        """Each user's distinct items, ascending: int32 ``values``, n_users rows, read-only."""
        return self._unique_items

    @cached_property
    def _unique_items(self) -> Ragged:
        found = unique_in_rows(Ragged(self.items, self.indptr), self.n_items)
        for array in (found.values, found.indptr):
            array.flags.writeable = False
        return found

    def histories(self, users: Iterable[int] | np.ndarray | None = None) -> Histories:
        """The whole sequences of ``users`` (indices), by default of every user.

        Raises:
            ValueError: an index outside 0..n_users-1.
        """
        if users is None:
            chosen = np.arange(self.n_users)
        else:
            chosen = np.asarray(users if isinstance(users, np.ndarray) else list(users))
            if chosen.size and chosen.dtype.kind not in "iu":
                wanted = f"whole numbers in 0..{self.n_users - 1}"
                raise ValueError(f"users must be {wanted}, got {chosen.ravel().tolist()[0]!r}")
        bad = chosen[(chosen < 0) | (chosen >= self.n_users)]
        if len(bad):
            raise ValueError(f"users must lie in 0..{self.n_users - 1}, got {bad[0]}")
        chosen = chosen.astype(np.int64)
        return Histories(
            items=self.items,
            timestamps=self.timestamps,
            users=chosen,
            starts=self.indptr[chosen],
            stops=self.indptr[chosen + 1],
            n_items=self.n_items,
            catalogue=self.catalogue,
        )

    def with_item_features(self, item_ids: Any, features: Any) -> Interactions:
        """The same interactions with features of their items.

        Items that have features and no records are added to the catalogue, behind the others, so
        that models that use features can recommend them. Items without features have zeros; a
        warning counts them.

        Args:
            item_ids: [n] distinct raw ids.
            features: [n, F] finite numbers.

        Raises:
            DataError: shapes that do not fit, an id twice, or a number that is not finite.
        """
        ids, table = extended(self.item_ids, self.find_items, item_ids, features)
        targets, more = self.target_items, len(ids) - self.n_items
        if targets is not None:
            targets = np.concatenate([targets, np.ones(more, dtype=bool)])
        return replace(self, item_ids=ids, target_items=targets, item_features=table)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Which items the indices stand for; the same for all parts of a split."""
        return Catalogue(self.item_ids)

    def of_users(self, users: Iterable[int]) -> Interactions:
        """These users (indices) alone, without the items that only others have.

        Raises:
            DataError: they have no records.
        """
        chosen = np.zeros(self.n_users, bool)
        chosen[list(users)] = True
        rows = np.flatnonzero(chosen[self.record_users])
        if len(rows) == 0:
            raise DataError("none of the users to be kept has a record")
        numbers, user_ids = _compact(self.record_users[rows], self.user_ids)
        items, item_ids = _compact(self.items[rows], self.item_ids)
        present = np.bincount(self.items[rows], minlength=self.n_items) > 0
        return type(self)(
            indptr=indptr_of(np.bincount(numbers)),
            items=items,
            timestamps=None if self.timestamps is None else self.timestamps[rows],
            user_ids=user_ids,
            item_ids=item_ids,
            target_items=None if self.target_items is None else self.target_items[present],
            item_features=None if self.item_features is None else self.item_features[present],
        )

    def summary(self) -> dict[str, int | float]:
        """Number of users, items and records, and density (records / (users x items))."""
        return {
            "users": self.n_users,
            "items": self.n_items,
            "records": self.n_records,
            "density": self.n_records / max(self.n_users * self.n_items, 1),
        }

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any record, time, id, their order or
        ``target_items``."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for array in (self.indptr, self.items, self.timestamps):
            digest.update(b"none" if array is None else str(len(array)).encode())
            if array is not None:
                digest.update(array.data)  # no copy: it may be a map of a large file
        for ids in (self.user_ids, self.item_ids):
            for piece in json_of(ids):
                digest.update(piece)
        if self.target_items is not None:
            digest.update(self.target_items.tobytes())
        if self.item_features is not None:
            digest.update(repr(self.item_features.shape).encode() + self.item_features.tobytes())
        return digest.hexdigest()[:16]


def read_only(**arrays: np.ndarray | None) -> dict[str, Any]:
    """Fresh arrays for ``Interactions``, which copies those that a caller could still change."""
    for array in arrays.values():
        if array is not None:
            array.flags.writeable = False
    return arrays


def _id_dtype(ids: Any) -> type:
    return np.int64 if np.asarray(ids).dtype.kind in "iu" else object


_ARRAYS = ("users", "items", "timestamps", "ratings")


def _rating_column(rating: Label | None, filters: Filters) -> Label | None:
    if filters.min_rating is not None:
        return "rating" if rating is None else rating
    if rating is not None:
        raise ValueError(f"rating={rating!r} has no effect without min_rating=, --min-rating")
    return None


def _odd_times(ordered: Records) -> list[str]:
    """What is to be told of records that have the time of the one before, of the same user."""
    if ordered.times is None:
        return []
    same_user = ordered.users[1:] == ordered.users[:-1]
    tied = same_user & ordered.times.same_as_before()
    n_tied, n_records = int(tied.sum()), len(ordered.users)
    n_copies = int((tied & (ordered.items[1:] == ordered.items[:-1])).sum())
    told = []
    if n_copies:
        told.append(
            f"{n_copies} of {n_records} records in {ordered.source} repeat the one before, user, "
            "item and time; a target that does is easily guessed. Unless they are meant, "
            "remove them or pass repeats='first', on the command line --repeats first"
        )
    if n_tied >= max(_FEW_RECORDS, _MOSTLY_TIED * same_user.sum()):
        record = int(tied.argmax())
        told.append(
            f"{n_tied} of {n_records} records in {ordered.source} have the time of the user's "
            f"record before, as user {ordered.user_ids[ordered.users[record]]} has at "
            f"{ordered.times.values[record]}: their order in the source counts as order in time; "
            "are the timestamps right?"
        )
    return told


def _compact(indices: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Renumber ``indices`` densely, dropping the ids that no longer occur."""
    present = np.bincount(indices, minlength=len(ids)) > 0
    return (np.cumsum(present) - 1)[indices], ids[present]


def _find(raw_ids: Any, numbers: dict[str, int]) -> np.ndarray:
    return np.array([numbers.get(name, -1) for name in _names(raw_ids)], dtype=np.int64)


def _look_up(raw_ids: Any, numbers: dict[str, int], kind: str) -> np.ndarray:
    found = _find(raw_ids, numbers)
    unknown = [name for name, number in zip(_names(raw_ids), found, strict=True) if number < 0]
    if unknown:
        raise DataError(
            f"{len(unknown)} unknown {kind} id(s): {first_names(unknown)}; they are not in the data"
        )
    return found


def _names(raw_ids: Any) -> list[str]:
    check_ordered(raw_ids=raw_ids)
    ids = np.atleast_1d(np.asarray(raw_ids, dtype=object)).tolist()
    for name in ids:
        if isinstance(name, (bool, np.bool_, bytes)):
            raise TypeError(f"{name!r} is no raw id, which is text or a whole number: convert it")
    return [str(int(name)) if _is_whole(name) else str(name) for name in ids]


def _is_whole(value: Any) -> bool:
    """Whether a number that is no integer is one all the same, as of a join with gaps."""
    return isinstance(value, (float, np.floating, Decimal)) and value == value // 1
