"""Folders of parts, stores that DuckDB prepares, and saved item indexes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.fuzz.properties import Target, refused_as, require, warned
from bench.fuzz.tables import TARGETS as _TABLES
from bench.fuzz.text import TARGETS as _TEXT
from pdrec_fast.data import Interactions
from pdrec_fast.data.preparing import prepare
from pdrec_fast.data.readers import read_file
from pdrec_fast.data.records import ColumnNames, NoRecordsError
from pdrec_fast.errors import CheckpointError, DataError
from pdrec_fast.export.nearest import ItemIndex

_KINDS = {
    suffix: target.seeds()[0]
    for suffix, target in (
        (".csv", _TEXT["csv"]),
        (".inter", _TEXT["inter"]),
        (".jsonl", _TEXT["jsonl"]),
        (".csv.gz", _TEXT["gz"]),
        (".parquet", _TABLES["parquet"]),
        (".arrow", _TABLES["arrow"]),
    )
}
_PREPARED = [suffix for suffix in _KINDS if suffix not in (".jsonl", ".arrow")]


def _split(content: bytes, kinds: list[str]) -> tuple[str, bytes]:
    """The first byte chooses the kind of file, the others are its content."""
    return kinds[content[0] % len(kinds) if content else 0], content[1:]


def _folder(content: bytes, folder: Path) -> None:
    """A damaged part beside a sound one: the records of both, or a refusal."""
    suffix, part = _split(content, list(_KINDS))
    parts = folder / "parts"
    parts.mkdir()
    sound, damaged = parts / f"part-0{suffix}", parts / f"part-1{suffix}"
    sound.write_bytes(_KINDS[suffix])
    damaged.write_bytes(part)
    with refused_as(DataError):
        n_records = len(read_file(parts, ColumnNames()).users)
        n_damaged = _n_records(damaged)
        require(n_damaged is not None, "read though one of its parts is refused")
        expected = _n_records(sound) + n_damaged
        require(n_records == expected, f"{n_records} records, not {expected}")


def _n_records(path: Path) -> Any:
    """Of a part by itself; None where it is refused."""
    try:
        return len(read_file(path, ColumnNames()).users)
    except NoRecordsError:
        return 0
    except DataError:
        return None


def _prepared(content: bytes, folder: Path) -> None:
    """A store by DuckDB, of which every record can be used; or a refusal, and nothing is left."""
    suffix, damaged = _split(content, _PREPARED)
    path, store = folder / f"fuzz{suffix}", folder / "store"
    path.write_bytes(damaged)
    with warned(), refused_as(DataError):
        card = prepare(path, store, threads=1, memory="500MB")
        data = Interactions.from_store(store)
        n_records = sum(part["n_records"] for part in card["parts"])
        require(data.n_records == n_records, f"{data.n_records} records, {n_records} in the card")
    left = {found.name for found in folder.iterdir()} - {path.name}
    require(left == ({"store"} if store.exists() else set()), f"left behind: {left}")


def _as_from_file(content: bytes, folder: Path) -> None:
    """What both read is the same."""
    suffix, _ = _split(content, _PREPARED)
    if not (folder / "store").exists():
        return
    with warned():
        try:
            expected = Interactions.from_file(folder / f"fuzz{suffix}")
        except DataError:
            return  # DuckDB reads more than the csv module does
        found = Interactions.from_store(folder / "store")
    require(found.fingerprint() == expected.fingerprint(), f"prepared {found}, not {expected}")


_MATRIX = np.arange(12, dtype=np.float32).reshape(6, 2)


@cache
def _index_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        ItemIndex.build(_MATRIX, rows=np.array([1, 0, 1, 1, 1, 1], bool), kind="flat").save(place)
        return {file.name: file.read_bytes() for file in sorted(Path(place).iterdir())}


def _index(content: bytes, folder: Path) -> None:
    """One file of a saved index is damaged: an index that finds what it did, or a refusal."""
    files = _index_files()
    name, damaged = _split(content, list(files))
    for sound in files:
        (folder / sound).write_bytes(damaged if sound == name else files[sound])
    with refused_as(CheckpointError):
        rows, _ = ItemIndex.load(folder, _MATRIX).search(_MATRIX[:2], k=3)
        require(rows.tolist() == [[5, 4, 3]] * 2, f"found {rows.tolist()}")


def _numbered(contents: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(bytes([n]) + content for n, content in enumerate(contents))


TARGETS = {
    "folder": Target(_folder, lambda: _numbered(_KINDS.values())),
    "prepare": Target(
        _prepared,
        lambda: _numbered(_KINDS[suffix] for suffix in _PREPARED),
        also=_as_from_file,
        weight=1,
    ),
    "index": Target(_index, lambda: _numbered(_index_files().values())),
}
