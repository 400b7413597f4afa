"""Stores: interactions on disk that are opened, not read, a part of the users by one worker.

A store is a folder: a card, the item ids that all parts share, and four arrays for each part. Its
format is told in docs/scale.md; ``preparing.py`` writes it, and so can other engines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from pdrec_fast.errors import DataError, MissingExtraError, one_line
from pdrec_fast.files import current_directory, read_current, read_json, write_json
from pdrec_fast.ragged import indptr_of

CARD = "store.json"
FORMAT, VERSION = "pdrec_fast store", 1
ID_COLUMN = "id"
_IDS = {"int64": ".npy", "str": ".parquet"}
_FILE = re.compile(
    r"store\.json|(item_ids|part-\d{5}\.(indptr|items|timestamps|user_ids))\.(npy|parquet)"
)
_PART = re.compile(r"part-\d{5}")
_REPAIR = "the store is damaged or half copied; write it again"


class StoredArrays(NamedTuple):
    """What ``Interactions`` consists of; arrays of one part are memory-mapped."""

    indptr: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray


class _Part(NamedTuple):
    """One part, as the card tells it."""

    name: str
    n_users: int
    n_records: int


@dataclass(frozen=True)
class _Card:
    """The card of a store, checked."""

    folder: Path
    user_ids: str
    item_ids: str
    n_items: int
    timestamps: bool
    parts: tuple[_Part, ...]


def is_store(path: str | Path) -> bool:
    """Whether a folder is a store."""
    return (current_directory(path, CARD) / CARD).is_file()


def is_file_of_a_store(file: Path) -> bool:
    """Whether it has the name of one; see ``whole_directory``."""
    return _FILE.fullmatch(file.name) is not None


def part_name(number: int) -> str:
    return f"part-{number:05}"


def open_store(path: str | Path, part: tuple[int, int] | None = None) -> StoredArrays:
    """Open a store, or a part of its users.

    Args:
        path: the folder.
        part: ``(i, n)``, the i-th (from 0) of n shares of the users: the store's parts i, i + n,
            i + 2 n, ... Every user is in one share. None is all.

    Returns:
        Read-only memory maps where this is one part of the store; several are joined in memory.

    Raises:
        FileNotFoundError: nothing is there.
        DataError: it is no store, of another version, or damaged; names the file.
        ValueError: a ``part`` that the store does not have.
        MissingExtraError: ids are text, and pyarrow is not installed.
    """
    return read_current(path, CARD, lambda _: _open_store(Path(path), part))


def _open_store(path: Path, part: tuple[int, int] | None) -> StoredArrays:
    card = _read_card(path)
    shares = _share(card, part)
    item_ids = _read_ids(card.folder / "item_ids", card.item_ids, card.n_items)
    opened = [_open_part(card, share) for share in shares]
    if len(opened) == 1:
        return StoredArrays(*opened[0], item_ids)
    return StoredArrays(*_joined(opened, card), item_ids)


def _share(card: _Card, part: tuple[int, int] | None) -> Sequence[_Part]:
    if part is None:
        return card.parts
    n_parts = len(card.parts)
    if not (isinstance(part, (tuple, list)) and len(part) == 2 and all(map(_is_count, part))):
        raise ValueError(f"part must be a pair of integers (i, n), got {part!r}")
    number, of = part
    if not 0 <= number < of <= n_parts:
        raise ValueError(
            f"part must be (i, n) with 0 <= i < n <= {n_parts}, the parts of {card.folder}, got "
            f"{tuple(part)}; prepare it with more parts, --parts, for more workers"
        )
    return card.parts[number::of]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _read_card(path: Path) -> _Card:
    folder = current_directory(path, CARD)
    file = folder / CARD
    if not folder.exists():
        raise FileNotFoundError(f"{path}: no such store")
    if not file.is_file():
        raise DataError(
            f"{path}: no store, for it has no {CARD}; write one with pdrec-fast prepare"
        )
    try:
        card = read_json(file)
        if card["format"] != FORMAT:
            raise DataError(f"{file}: the format is {card['format']!r}, not {FORMAT!r}")
        if card["version"] != VERSION:
            raise DataError(
                f"{file}: version {card['version']!r} of the format; this package reads {VERSION}"
            )
        if unlike := [part["name"] for part in card["parts"] if not _PART.fullmatch(part["name"])]:
            raise DataError(f"{file}: {unlike[0]!r} is no name of a part, such as part-00000")
        parts = [_Part(part["name"], part["n_users"], part["n_records"]) for part in card["parts"]]
        found = _Card(
            folder, card["user_ids"], card["item_ids"], card["n_items"], card["timestamps"],
            tuple(parts),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: not a store's card ({error!r}); {_REPAIR}") from None
    counts = [found.n_items, *(n for part in parts for n in part[1:])]
    sound = parts and all(map(_is_count, counts)) and isinstance(found.timestamps, bool)
    if not (sound and {found.user_ids, found.item_ids} <= set(_IDS)):
        raise DataError(
            f"{file}: needs parts, counts of at least 0, timestamps true or false, and ids of "
            f"{' or '.join(_IDS)}; {_REPAIR}"
        )
    return found


def _open_part(
    card: _Card, part: _Part
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    base = str(card.folder / part.name)
    indptr = _map(Path(f"{base}.indptr.npy"), np.int64, part.n_users + 1)
    items = _map(Path(f"{base}.items.npy"), np.int32, part.n_records)
    times = None
    if card.timestamps:
        times = _map(Path(f"{base}.timestamps.npy"), np.float64, part.n_records)
    if indptr[0] != 0 or indptr[-1] != part.n_records:
        raise DataError(f"{base}.indptr.npy: does not run from 0 to {part.n_records}; {_REPAIR}")
    return indptr, items, times, _read_ids(Path(f"{base}.user_ids"), card.user_ids, part.n_users)


def _map(file: Path, dtype: type, length: int) -> np.ndarray:
    _check_own(file)
    try:
        array = _array(file, mapped=length > 0)
    except Exception as error:  # whatever Python's own parsers raise for a damaged header
        raise DataError(f"{file}: cannot be opened ({one_line(error)}); {_REPAIR}") from None
    if array.dtype != dtype or array.shape != (length,):
        raise DataError(
            f"{file}: {array.dtype} {list(array.shape)} where the card has "
            f"{np.dtype(dtype)} [{length}]; {_REPAIR}"
        )
    return array


def _check_own(file: Path) -> None:
    """Raises DataError where a file is a link, which may lead out of the store."""
    if file.is_symlink():
        raise DataError(f"{file}: is a link, and a store has files; copy them into it")


def _array(file: Path, mapped: bool) -> np.ndarray:
    """Not by ``np.load``, which opens other kinds of files as well."""
    if mapped:
        array: np.ndarray = np.lib.format.open_memmap(file, mode="r")
        return array
    with open(file, "rb") as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        return array


def _read_ids(base: Path, kind: str, length: int) -> np.ndarray:
    """Ids that ascend: int64, mapped, or str objects."""
    file = base.with_name(base.name + _IDS[kind])
    if kind == "int64":
        ids = _map(file, np.int64, length)
    else:
        _check_own(file)
        parquet = _parquet(file)
        try:
            names = parquet.read_table(file, columns=[ID_COLUMN]).column(0).to_pylist()
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise DataError(f"{file}: cannot be read ({error}); {_REPAIR}") from None
        if len(names) != length or not set(map(type, names)) <= {str}:
            raise DataError(f"{file}: not the {length} texts that the card tells of; {_REPAIR}")
        ids = np.array(names, dtype=object)
    if not (ids[1:] > ids[:-1]).all():
        raise DataError(f"{file}: ids must ascend, each once; {_REPAIR}")
    return ids


def _joined(
    opened: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]], card: _Card
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """The users of several parts, by id; in memory."""
    user_ids = np.concatenate([ids for *_, ids in opened])
    order = np.argsort(user_ids, kind="stable")
    user_ids = user_ids[order]
    if (user_ids[1:] == user_ids[:-1]).any():
        raise DataError(f"{card.folder}: a user is in two parts; {_REPAIR}")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    lengths = np.concatenate([np.diff(indptr) for indptr, *_ in opened])
    if (lengths < 0).any():
        raise DataError(f"{card.folder}: the indptr of a part decreases; {_REPAIR}")
    joined = indptr_of(lengths[order])
    items = np.empty(joined[-1], np.int32)
    times = np.empty(joined[-1], np.float64) if card.timestamps else None
    first = 0
    for indptr, its_items, its_times, ids in opened:
        users = slice(first, first + len(ids))
        rows = np.repeat(joined[places[users]] - indptr[:-1], lengths[users])
        rows += np.arange(len(rows))
        items[rows] = its_items
        if times is not None and its_times is not None:
            times[rows] = its_times
        first = users.stop
    for array in (joined, items, times, user_ids):
        if array is not None:
            array.flags.writeable = False  # or ``Interactions`` would copy it
    return joined, items, times, user_ids


class PartWriter:
    """Writes one part from records that come ordered by user and time.

    Args:
        folder: the store's.
        name: of the part.
        n_records: how many will come.
        timestamps: whether they have times.
    """

    def __init__(self, folder: Path, name: str, n_records: int, timestamps: bool) -> None:
        self._base = str(folder / name)
        self.name, self.n_records = name, n_records
        self._users: list[np.ndarray] = []
        self._starts: list[np.ndarray] = []
        self._n_written = 0
        self._last: Any = None
        self._items = _begin(Path(f"{self._base}.items.npy"), np.int32, n_records)
        self._times = (
            _begin(Path(f"{self._base}.timestamps.npy"), np.float64, n_records)
            if timestamps
            else None
        )

    def add(self, users: np.ndarray, items: np.ndarray, times: np.ndarray | None) -> None:
        """Args: users: raw ids of the records, int64 or str objects."""
        new = np.append(users[:1] != self._last, users[1:] != users[:-1])
        self._users.append(users[new])
        self._starts.append(np.flatnonzero(new) + self._n_written)
        self._last = users[-1]
        self._n_written += len(users)
        self._items.write(np.ascontiguousarray(items, np.int32).data)
        if self._times is not None and times is not None:
            self._times.write(np.ascontiguousarray(times, np.float64).data)

    def finish(self, kind: str) -> dict[str, Any]:
        """Writes what is left, ids of this ``kind``; returns the part's line of the card."""
        assert self._n_written == self.n_records
        starts = np.concatenate([*self._starts, [self.n_records]]).astype(np.int64)
        np.save(f"{self._base}.indptr.npy", starts)
        users = np.concatenate(self._users) if self._users else np.empty(0, np.int64)
        write_ids(Path(f"{self._base}.user_ids"), users, kind)
        self.close()
        return {"name": self.name, "n_users": len(users), "n_records": self.n_records}

    def close(self) -> None:
        """Close the files, finished or not."""
        self._items.close()
        if self._times is not None:
            self._times.close()


def _begin(file: Path, dtype: type, length: int) -> BinaryIO:
    """An ``.npy`` file whose values are still to be written: a map's would count as memory."""
    stream = open(file, "wb")  # noqa: SIM115
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream


def write_ids(base: Path, ids: np.ndarray, kind: str) -> None:
    """Write ids, of ``kind`` int64 or str, to ``base`` with the suffix of the kind."""
    file = base.with_name(base.name + _IDS[kind])
    if kind == "int64":
        np.save(file, ids.astype(np.int64))
        return
    parquet = _parquet(file)
    import pyarrow

    parquet.write_table(
        pyarrow.table({ID_COLUMN: pyarrow.array(ids.tolist(), pyarrow.string())}), file
    )


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Args: card: all but the format and its version."""
    write_json(folder / CARD, {"format": FORMAT, "version": VERSION, **card})


def _parquet(file: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f"{file}: ids that are text need pyarrow; pip install pdrec_fast[store]"
        ) from error
    return pyarrow.parquet
