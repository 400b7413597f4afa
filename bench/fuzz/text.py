"""Delimited text, JSON lines and compressed text: every reader against the csv module's."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow
import pyarrow.parquet

from bench.fuzz.properties import Target, refused_as, require, same, warned
from pdrec_fast.data import Interactions
from pdrec_fast.data.frames import read_frame
from pdrec_fast.data.plain_text import read_plain_text
from pdrec_fast.data.readers import read_file
from pdrec_fast.data.records import ColumnNames, Records
from pdrec_fast.data.sources import Source, sources_of
from pdrec_fast.data.text import labels_of, read_text, rows_of
from pdrec_fast.data.times import Times
from pdrec_fast.errors import DataError

_INTER = (
    b"user_id:token\titem_id:token\ttimestamp:float\n1\t20\t964982703\n1\t30\t96.5\n22\t20\t7\n",
    b"user_id:token\titem_id:token\trating:float\ttimestamp:float\r\n"
    b'a b\t"x"\t4\t1\r\n\xc3\xa9\t7\t3.5\t-2\r\n',
)
_CSV = (
    b"user_id,item_id,timestamp\n1,20,5\n1,30,4\n2,20,5\n",
    b'user_id,item_id,rating,timestamp\n"a,1","say ""hi""",4,2020-09-14\n'
    b'"a,1",x,3,2020-09-14T12:00:00.5+02:00\n',
    b"\xef\xbb\xbfitem_id,user_id\r\n3.0,u\r\n4.0,NaN\r\n\r\n3.0,v ",
    b"user_id,item_id,timestamp\n1,2,1600000000000000001\n1,3,1600000000000000002\n",
    b"user_id,item_id,timestamp\na,2,2020-01-01 00:00:00\nb,3,2021-12-31 23:59:59.123456789\n",
    b'user_id,item_id,note,timestamp\nu,i,"over\ntwo lines",1\nu,j,,2\n',
)
_JSON = (
    b'{"user_id": 1, "item_id": "x", "timestamp": 3}\n'
    b'{"user_id": 2, "item_id": "y", "timestamp": 4.5}\n',
    b'{"user_id":"\\u00e9","item_id":7,"rating":true,"timestamp":"2020-01-01"}\r\n\n'
    b'{"item_id":8,"user_id":"b","rating":2,"timestamp":"2020-01-02T00:00Z"}',
)


def columns_of(content: bytes) -> ColumnNames:
    """Ratings are read, too, where there seem to be some."""
    return ColumnNames(rating="rating" if b"rating" in content else None)


def readings(records: Records) -> dict[str, Any]:
    """What was read, in the order of the rows."""
    arrays = {
        "users": records.user_ids[records.users],
        "items": records.item_ids[records.items],
        "timestamps": records.timestamps,
        "order": None if records.times is None else _order(records.times),
        "ratings": records.ratings,
    }
    return {name: None if found is None else found.tolist() for name, found in arrays.items()}


def _order(times: Times) -> np.ndarray:
    """The rank of each of the exact times, equal ones having one rank."""
    part = np.zeros(len(times.keys), np.int64) if times.part is None else times.part
    order = np.lexsort((part, times.keys))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.cumsum(np.append(False, ~times[order].same_as_before()))
    return ranks


def _delimited(suffix: str, content: bytes, folder: Path) -> None:
    """By the csv module and by pyarrow, and nothing is lost."""
    path = folder / f"fuzz{suffix}"
    path.write_bytes(content)
    names = columns_of(content)
    [source] = sources_of(path)
    reference = plain = None
    with refused_as(DataError):
        reference = read_text(source, names)
    with refused_as(DataError):
        plain = read_plain_text(source, names)
    if reference is None:
        require(plain is None, "pyarrow reads what the csv reader refuses")
        return
    if plain is not None:
        found = readings(plain) | {"remarks": plain.remarks}
        same(found, readings(reference) | {"remarks": reference.remarks}, "pyarrow against csv")
    _count(source, _rows(source)[0], reference)


def _rows(source: Source) -> list[list[str]]:
    """The rows of a sound file, the header among them."""
    with source.open_text() as lines:
        return [row for row in rows_of(source, lines) if row]


def _from_tables(suffix: str, content: bytes, folder: Path) -> None:
    """What the csv module reads, from tables in memory and files of these."""
    names = columns_of(content)
    [source] = sources_of(folder / f"fuzz{suffix}")
    try:
        reference = read_text(source, names)
    except DataError:
        return
    header, *rows = _rows(source)
    labels = labels_of(header, source)
    # Arrow's interface in C, by which tables are read, ends a name at its first NUL.
    if len(set(labels)) == len(labels) and not any("\0" in label for label in labels):
        columns = dict(zip(labels, map(list, zip(*rows, strict=True)), strict=True))
        _same_from_tables(columns, names, readings(reference), folder)


def _count(source: Source, header: list[str], records: Records) -> None:
    """Lines in are records kept, but for the header, blank lines and what a warning counts."""
    text = source.read().decode("utf-8-sig")
    n_lines = sum(line != "\n" for line in io.StringIO(text, newline=None))
    n_lines -= 1 + sum(label.count("\n") + label.count("\r") for label in header)
    n_records = len(records.users)
    told = any(remark.kind[0] == "lines" for remark in records.remarks)
    message = f"{n_lines} lines but {n_records} records, and no word of it"
    require(n_records == n_lines or told, message)
    with warned() as texts, refused_as(DataError):
        data = Interactions.from_file(source.path)
        require(data.n_records == n_records, f"{n_records} records, {data.n_records} interactions")
    for remark in records.remarks:
        require(str(remark) in texts, f"no warning says: {remark}")
        require(len(str(remark).splitlines()) == 1, f"a warning of several lines: {remark}")


def _same_from_tables(
    columns: Mapping[str, list[str]], names: ColumnNames, expected: Mapping[str, Any], folder: Path
) -> None:
    """Tables of the same text hold the same records; or they are refused."""
    with refused_as(DataError):
        same(readings(read_frame(columns, names)), expected, "a dict against csv")
    table = pyarrow.table(columns)
    parquet, arrow = folder / "fuzz.parquet", folder / "fuzz.arrow"
    pyarrow.parquet.write_table(table, parquet)
    with pyarrow.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table)
    readers = {
        "pyarrow": partial(read_frame, table, names),
        "polars": partial(read_frame, polars.DataFrame(columns), names),
        "lazy polars": partial(read_frame, polars.LazyFrame(columns), names),
        "Parquet": partial(read_file, parquet, names),
        "Arrow": partial(read_file, arrow, names),
    }
    for name, read in readers.items():
        with refused_as(DataError):
            same(readings(read()), expected, f"{name} against csv")


def _json_lines(content: bytes, folder: Path) -> None:
    """Every line that is not blank is a record."""
    path = folder / "fuzz.jsonl"
    path.write_bytes(content)
    with refused_as(DataError):
        records = read_file(path, columns_of(content))
        lines = io.StringIO(content.decode("utf-8-sig"), newline="")
        n_lines = sum(bool(line.strip()) for line in lines)
        require(n_lines == len(records.users), f"{n_lines} lines, {len(records.users)} records")


def _compressed(suffix: str, kind: str, content: bytes, folder: Path) -> None:
    """All that is decompressed at once, or nothing."""
    path, plain = folder / f"fuzz{kind}{suffix}", folder / f"plain{kind}"
    path.write_bytes(content)
    with refused_as(DataError):
        records = read_file(path, ColumnNames())
        plain.write_bytes(_DECOMPRESS[suffix](content))
        same(readings(records), readings(read_file(plain, ColumnNames())), suffix)


def _unzip(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        [name] = archive.namelist()
        return archive.read(name)


def _zip(content: bytes, method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("fuzz.csv", content)
    return stream.getvalue()


def _unzstd(content: bytes) -> bytes:
    return bytes(pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd").read())


def _zstd(content: bytes) -> bytes:
    stream = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(stream, "zstd") as compressing:
        compressing.write(content)
    return bytes(stream.getvalue())


_DECOMPRESS = {".gz": gzip.decompress, ".zip": _unzip, ".zst": _unzstd}
# pyarrow keeps up to 1 MiB of address space for every damaged .zst; a process has 6 GiB.
_ZSTD = 5_000
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def _delimited_target(suffix: str, corpus: tuple[bytes, ...]) -> Target:
    return Target(partial(_delimited, suffix), lambda: corpus, also=partial(_from_tables, suffix))


TARGETS = {
    "inter": _delimited_target(".inter", _INTER),
    "tsv": _delimited_target(".tsv", tuple(c.replace(b",", b"\t") for c in _CSV)),
    "csv": _delimited_target(".csv", _CSV),
    "jsonl": Target(_json_lines, lambda: _JSON),
    "gz": Target(
        partial(_compressed, ".gz", ".csv"),
        lambda: tuple(gzip.compress(c, mtime=0) for c in _CSV[:2]),
    ),
    "jsonl-gz": Target(
        partial(_compressed, ".gz", ".jsonl"),
        lambda: tuple(gzip.compress(c, mtime=0) for c in _JSON),
    ),
    "zip": Target(
        partial(_compressed, ".zip", ".csv"), lambda: tuple(_zip(_CSV[0], m) for m in _ZIP_METHODS)
    ),
    "zst": Target(
        partial(_compressed, ".zst", ".csv"), lambda: tuple(map(_zstd, _CSV[:2])), at_once=_ZSTD
    ),
    "jsonl-zst": Target(
        partial(_compressed, ".zst", ".jsonl"), lambda: tuple(map(_zstd, _JSON)), at_once=_ZSTD
    ),
}
