"""The interactions of users with items: one immutable, chronologically ordered CSR structure."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from pdrec_fast.data.catalogue import Catalogue
from pdrec_fast.data.histories import Histories
from pdrec_fast.data.ordering import chronological_order, stable_order
from pdrec_fast.data.readers import read_columns, read_file, read_frame
from pdrec_fast.data.records import ColumnNames, Records
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import Ragged, indptr_of, row_indices

Repeats = Literal["keep", "first", "last"]
"""What becomes of a (user, item) pair that occurs again: all kept, or only the first or last."""


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
        if not np.isfinite(self.timestamps).all():
            raise DataError("timestamps must be finite")
        backwards = np.diff(self.timestamps, prepend=-np.inf) < 0
        backwards[self.indptr[:-1][np.diff(self.indptr) > 0]] = False  # a user's first record
        if backwards.any():
            record = backwards.argmax()
            raise DataError(f"timestamps must not decrease within a user; record {record} does")

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        user: str | None = None,
        item: str | None = None,
        timestamp: str | None = None,
        min_user: int = 1,
        min_item: int = 1,
        repeats: Repeats = "keep",
    ) -> Interactions:
        """Read a RecBole ``.inter``, a ``.csv``, ``.tsv`` or ``.parquet`` file with column names.

        Ids become int64 when every one of the column is an integer written plainly, else str;
        indices follow the sorted ids. Records of equal time keep their order in the file. Without
        timestamps the order of the file counts as chronological, and a warning says so. Ordinary
        text is read several times faster where pyarrow is installed, to the same result.

        Args:
            path: the file; text is UTF-8.
            user: name of the user column, by default ``user_id``.
            item: name of the item column, by default ``item_id``.
            timestamp: name of the time column, by default ``timestamp``, which may be absent.
            min_user: least number of records of a user.
            min_item: least number of records of an item; users and items with fewer are removed
                until both minima hold.
            repeats: ``"keep"`` every record of a (user, item) pair, or only the ``"first"`` or
                ``"last"``; applied before the minima. A warning counts those kept of equal time.

        Raises:
            FileNotFoundError: there is no such file.
            DataError: the file cannot be used; names the file, line (header = 1) and column.
            ValueError: an option out of its range.
            MissingExtraError: Parquet without pyarrow.
        """
        records = read_file(path, ColumnNames(user, item, timestamp))
        return cls._from_records(records, min_user, min_item, repeats)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        user: str | None = None,
        item: str | None = None,
        timestamp: str | None = None,
        min_user: int = 1,
        min_item: int = 1,
        repeats: Repeats = "keep",
    ) -> Interactions:
        """Read a pandas or polars data frame; see :meth:`from_file` for the options.

        Datetime columns become unix seconds. Errors name the row (counted from 0) and column.
        """
        records = read_frame(frame, ColumnNames(user, item, timestamp))
        return cls._from_records(records, min_user, min_item, repeats)

    @classmethod
    def from_arrays(
        cls,
        users: Any,
        items: Any,
        timestamps: Any = None,
        *,
        min_user: int = 1,
        min_item: int = 1,
        repeats: Repeats = "keep",
    ) -> Interactions:
        """Read sequences or arrays of raw ids and times; see :meth:`from_file` for the options.

        Args:
            users: [n] str or integer ids.
            items: [n] str or integer ids.
            timestamps: [n] numbers or datetime64; None takes the order as chronological.

        Raises:
            ValueError: the lengths differ.
            DataError: a value that cannot be used; names the row (counted from 0) and column.
        """
        columns = {"users": users, "items": items}
        if timestamps is not None:
            columns["timestamps"] = np.asarray(timestamps)
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the arrays must be equally long, got lengths {lengths}")
        timestamp = None if timestamps is None else "timestamps"
        records = read_columns(columns, ("users", "items", timestamp), "the arrays")
        return cls._from_records(records, min_user, min_item, repeats)

    @classmethod
    def _from_records(
        cls, records: Records, min_user: int, min_item: int, repeats: str
    ) -> Interactions:
        _check_options(min_user, min_item, repeats)
        if records.timestamps is None:
            warnings.warn(
                f"no timestamps in {records.source} (if a column of another name holds them, pass "
                "timestamp=, on the command line --timestamp-column): the order of its records is "
                "taken as chronological, and weights by time (TI-DiffRec's) are weights by rank",
                stacklevel=3,
            )
        rows = chronological_order(records.users, records.timestamps)
        rows = _without_repeats(rows, records.users, records.items, repeats)
        rows = _core(rows, records.users, records.items, min_user, min_item)
        if len(rows) == 0:
            raise DataError(
                f"{records.source}: none of {len(records.users)} records is left with "
                f"min_user={min_user}, min_item={min_item}, repeats={repeats!r}; lower the minima"
            )
        users, items = records.users[rows], records.items[rows]
        times = None if records.timestamps is None else records.timestamps[rows]
        copies = _count_copies(users, items, times)
        if copies:
            warnings.warn(
                f"{copies} of {len(rows)} records in {records.source} repeat the one before, user, "
                "item and time; a target that does is easily guessed. Unless they are meant, "
                "remove them or pass repeats='first', on the command line --repeats first",
                stacklevel=3,
            )
        user_ids, item_ids = records.user_ids, records.item_ids
        if len(rows) < len(records.users):
            users, user_ids = _compact(users, user_ids)
            items, item_ids = _compact(items, item_ids)
        return cls(
            indptr=indptr_of(np.bincount(users)),
            items=items,
            timestamps=times,
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
        users = self.record_users
        pairs = users * self.n_items + self.items
        pairs = pairs[stable_order(pairs)]  # sorting moves no record to another user
        new = np.diff(pairs, prepend=-1) > 0
        counts = np.bincount(users[new], minlength=self.n_users)
        items = (pairs[new] - users[new] * self.n_items).astype(np.int32)
        indptr = indptr_of(counts)
        for array in (items, indptr):
            array.flags.writeable = False
        return Ragged(items, indptr)

    def histories(self, users: Iterable[int] | np.ndarray | None = None) -> Histories:
        """The whole sequences of ``users`` (indices), by default of every user.

        Raises:
            ValueError: an index outside 0..n_users-1.
        """
        if users is None:
            chosen = np.arange(self.n_users)
        else:
            chosen = np.asarray(users if isinstance(users, np.ndarray) else list(users), np.int64)
        bad = chosen[(chosen < 0) | (chosen >= self.n_users)]
        if len(bad):
            raise ValueError(f"users must lie in 0..{self.n_users - 1}, got {bad[0]}")
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
        names = _names(item_ids)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"item {twice!r} has features twice")
        vectors = np.asarray(features, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(names):
            raise DataError(
                f"features must have shape [{len(names)}, F], one row for each id, got "
                f"{vectors.shape}"
            )
        at = self.find_items(item_ids)
        new = np.flatnonzero(at < 0)
        at[new] = self.n_items + np.arange(len(new))
        all_ids = [*self.item_ids.tolist(), *(names[place] for place in new)]
        if self.item_ids.dtype == np.int64:
            plain = all(names[place].lstrip("-").isdigit() for place in new)
            all_ids = [int(name) for name in all_ids] if plain else [str(n) for n in all_ids]
        table = np.zeros((len(all_ids), vectors.shape[1]), dtype=np.float32)
        table[at] = vectors
        missing = self.n_items - int((at < self.n_items).sum())
        if missing:
            warnings.warn(
                f"{missing} of {self.n_items} items have no features: zeros in their place",
                stacklevel=2,
            )
        ids = np.array(all_ids, dtype=np.int64 if isinstance(all_ids[0], int) else object)
        targets = self.target_items
        if targets is not None:
            targets = np.concatenate([targets, np.ones(len(new), dtype=bool)])
        return replace(self, item_ids=ids, target_items=targets, item_features=table)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Which items the indices stand for; the same for all parts of a split."""
        return Catalogue(self.item_ids)

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
            digest.update(b"none" if array is None else str(len(array)).encode() + array.tobytes())
        for ids in (self.user_ids, self.item_ids):
            digest.update(json.dumps(ids.tolist()).encode())
        if self.target_items is not None:
            digest.update(self.target_items.tobytes())
        if self.item_features is not None:
            digest.update(repr(self.item_features.shape).encode() + self.item_features.tobytes())
        return digest.hexdigest()[:16]


def check_features(features: np.ndarray, item_ids: np.ndarray) -> None:
    """Raises DataError unless there is one row of finite numbers for each item."""
    if features.ndim != 2 or len(features) != len(item_ids) or not features.shape[1]:
        raise DataError(f"item_features must have shape [{len(item_ids)}, F], got {features.shape}")
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise DataError(f"item {item_ids[bad.argmax()]!s} has features that are not finite")


def _id_dtype(ids: Any) -> type:
    return np.int64 if np.asarray(ids).dtype.kind in "iu" else object


def _check_options(min_user: int, min_item: int, repeats: str) -> None:
    for name, value in (("min_user", min_user), ("min_item", min_item)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if repeats not in get_args(Repeats):
        raise ValueError(f"repeats must be one of {get_args(Repeats)}, got {repeats!r}")


def _count_copies(users: np.ndarray, items: np.ndarray, times: np.ndarray | None) -> int:
    """How many of the ordered records have the user, item and time of the one before."""
    if times is None:
        return 0
    return int(((np.diff(items) == 0) & (np.diff(users) == 0) & (np.diff(times) == 0)).sum())


def _without_repeats(
    rows: np.ndarray, users: np.ndarray, items: np.ndarray, repeats: str
) -> np.ndarray:
    """Those of the chronological ``rows`` that stay."""
    if repeats == "keep":
        return rows
    pairs = (users * (items.max() + 1) + items)[rows]
    order = stable_order(pairs)
    ends = np.flatnonzero(np.diff(pairs[order], append=-1))
    kept = np.zeros(len(rows), bool)
    kept[order[ends] if repeats == "last" else order[np.append(0, ends[:-1] + 1)]] = True
    return rows[kept]


def _core(
    rows: np.ndarray, users: np.ndarray, items: np.ndarray, min_user: int, min_item: int
) -> np.ndarray:
    """The largest part of ``rows`` in which both minima hold."""
    if min_user == min_item == 1:
        return rows
    users, items = users[rows], items[rows]
    while len(rows):
        enough = (np.bincount(users) >= min_user)[users] & (np.bincount(items) >= min_item)[items]
        if enough.all():
            break
        rows, users, items = rows[enough], users[enough], items[enough]
    return rows


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
        shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise DataError(f"{len(unknown)} unknown {kind} id(s): {shown}; they are not in the data")
    return found


def _names(raw_ids: Any) -> list[str]:
    return [str(name) for name in np.atleast_1d(np.asarray(raw_ids, dtype=object)).tolist()]
