"""Ordinary text files through pyarrow's parser, many times faster than the csv module.

A file that it might read differently from the csv module, or that has to be refused, is left to
the csv reader, so that pyarrow decides nothing but the speed.
"""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pdrec_fast.data.records import (
    LARGEST_TIME,
    ColumnNames,
    Records,
    rank_ids,
    rank_integers,
    resolve_columns,
)


def read_plain_text(path: Path, names: ColumnNames, delimiter: str) -> Records | None:
    """Read delimited text; None where the csv reader must, or where pyarrow is not installed.

    Raises:
        DataError: a column is missing or occurs more than once.
    """
    try:
        import pyarrow
        import pyarrow.csv
    except ImportError:
        return None
    content = path.read_bytes()
    header_end = content.find(b"\n")
    if header_end < 0 or not _is_plain(content):
        return None
    header = content[:header_end].decode("utf-8-sig").removesuffix("\r")
    if not header:
        return None
    columns = header_columns(header.split(delimiter), path)
    wanted = resolve_columns(names, columns, str(path))
    used = [str(columns.index(name)) for name in wanted if name is not None]
    if len(set(used)) < len(used):
        return None
    string, number = pyarrow.string(), pyarrow.float64()
    try:
        table = pyarrow.csv.read_csv(
            pyarrow.BufferReader(content),
            pyarrow.csv.ReadOptions(column_names=list(map(str, range(len(columns)))), skip_rows=1),
            pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char=False),
            pyarrow.csv.ConvertOptions(
                check_utf8=False,
                null_values=[],
                include_columns=used,
                column_types=dict(zip(used, (string, string, number), strict=False)),
            ),
        )
    except pyarrow.ArrowException:
        return None
    return _as_records(table.columns, str(path)) if table.num_rows else None


def header_columns(header: list[str], path: Path) -> list[str]:
    """Column names of a header row; RecBole's are written ``name:type``."""
    columns = [name.strip() for name in header]
    if path.suffix.lower() == ".inter":
        columns = [name.split(":")[0] for name in columns]
    return columns


def _is_plain(content: bytes) -> bool:
    """Whether lines and fields are no more than what stands between breaks and delimiters."""
    if b'"' in content or b"\0" in content:  # Python 3.10's csv module refuses NUL
        return False
    if b"\r" in content and content.count(b"\r") != content.count(b"\r\n"):
        return False
    return _is_utf8(content) and _has_short_lines(content, csv.field_size_limit())


def _is_utf8(content: bytes) -> bool:
    try:
        return content.isascii() or bool(content.decode())
    except UnicodeDecodeError:
        return False


def _has_short_lines(content: bytes, limit: int) -> bool:
    """Whether no field can exceed ``limit``, beyond which the csv module refuses it."""
    start = 0
    while start + limit < len(content):
        start = content.rfind(b"\n", start, start + limit) + 1
        if start == 0:
            return False
    return True


def _as_records(columns: list[Any], source: str) -> Records | None:
    with ThreadPoolExecutor(2) as pool:  # casts and sorts release the interpreter lock
        users, items = pool.map(_encode, columns[:2])
    times = _as_array(columns[2].chunks) if len(columns) == 3 else None
    if users is None or items is None:
        return None
    if times is not None and not (np.abs(times) <= LARGEST_TIME).all():  # NaN is not either
        return None
    return Records(users[0], items[0], times, users[1], items[1], source)


def _encode(column: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Indices and sorted ids of a column of strings; None where an id is blank."""
    with suppress(ValueError):  # pyarrow's error for what is no number, or beyond int64
        codes, ids = rank_integers(_as_array(column.cast("int64").chunks))
        # An integer's own form is its shortest: equal lengths in sum mean that all are written so.
        if np.bincount(codes) @ _widths(ids) == _n_characters(column.chunks):
            return codes, ids
    encoded = column.dictionary_encode().combine_chunks()
    names = encoded.dictionary.to_pylist()
    return rank_ids(_as_array([encoded.indices]), names) if all(map(str.strip, names)) else None


def _as_array(chunks: list[Any]) -> np.ndarray:
    """pyarrow's numbers as one array; its own ``to_numpy`` imports pandas, which takes longer."""
    return np.concatenate([np.from_dlpack(chunk) for chunk in chunks])


def _widths(numbers: np.ndarray) -> np.ndarray:
    """Length of ``str`` of every number."""
    sizes = np.abs(numbers).view(np.uint64)  # the lowest int64 has no absolute value among them
    powers = np.uint64(10) ** np.arange(1, 20, dtype=np.uint64)
    return 1 + np.searchsorted(powers, sizes, side="right") + (numbers < 0)


def _n_characters(chunks: list[Any]) -> int:
    """Bytes of the strings of all chunks."""
    offsets = (np.frombuffer(chunk.buffers()[1], np.int32) for chunk in chunks)
    return sum(int(o[len(chunk)]) - int(o[0]) for o, chunk in zip(offsets, chunks, strict=True))
