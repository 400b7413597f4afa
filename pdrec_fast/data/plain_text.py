"""Ordinary text files through pyarrow's parser, many times faster than the csv module.

A file that it might read differently from the csv module, or that has to be refused, is left to
the csv reader, so that pyarrow decides nothing but the speed.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np

from pdrec_fast.data.arrow import as_array, encode_strings
from pdrec_fast.data.ids import Encoded, rank_integers
from pdrec_fast.data.records import ColumnNames, Columns, Records, Where, resolve_columns
from pdrec_fast.data.sources import Source
from pdrec_fast.data.text import labels_of, line_of
from pdrec_fast.data.times import LARGEST_FLOAT, PARTS, SHORT_NUMBER, Times, exact_times, times_of


def read_plain_text(source: Source, names: ColumnNames, header: bool = True) -> Records | None:
    """Read delimited text; None where the csv reader must, or where pyarrow is not installed.

    Raises:
        DataError: a column is missing or occurs more than once.
    """
    try:
        import pyarrow
        import pyarrow.csv
    except ImportError:
        return None
    content = source.read()
    line_end = content.find(b"\n")
    if line_end < 0 or not _is_plain(content, source.quotes):
        return None
    first = content[:line_end].decode("utf-8-sig").removesuffix("\r").split(source.delimiter)
    if first == [""]:
        return None
    labels = labels_of(first, source) if header else list(range(len(first)))
    columns = resolve_columns(names, labels, str(source.path))

    def parse(types: list[Any]) -> list[Any]:
        """The columns to read, of these types."""
        used = list(map(str, columns.used))
        return pyarrow.csv.read_csv(
            pyarrow.BufferReader(content),
            pyarrow.csv.ReadOptions(
                column_names=list(map(str, range(len(labels)))), skip_rows=int(header)
            ),
            pyarrow.csv.ParseOptions(delimiter=source.delimiter, quote_char=False),
            pyarrow.csv.ConvertOptions(
                check_utf8=False,
                null_values=[],
                include_columns=used,
                column_types=dict(zip(used, types, strict=True)),
            ),
        ).columns

    for time in _time_types(columns, content, line_end * header, source.delimiter):
        with suppress(pyarrow.ArrowException):
            string, number = pyarrow.string(), pyarrow.float64()
            types = [string, string, time, number] if time else [string, string, number]
            found = parse(types[: len(columns.used)])
            if len(found[0]) == 0:
                return None
            times = _times(found[2]) if time else None
            return _as_records(found, times, columns, source, header)
    return None


def _time_types(columns: Columns, content: bytes, start: int, delimiter: str) -> Iterator[Any]:
    """Types of pyarrow to try, as the first time suggests: an integer, a number, a date.

    Args:
        start: where the rows begin, or the break before them.
    """
    import pyarrow

    if columns.timestamp is None:
        yield None
        return
    while content[start : start + 1] in (b"\r", b"\n"):
        start += 1
    end = content.find(b"\n", start)
    fields = content[start : None if end < 0 else end].split(delimiter.encode())
    text = fields[columns.timestamp].strip() if columns.timestamp < len(fields) else b""
    # No integers in the csv reader's eyes. A single byte is found much faster than two.
    odd = ((b"x", b"0x"), (b"X", b"0X"), (b"-", b"-0"))
    if text.isdigit() and not any(byte in content and both in content for byte, both in odd):
        yield pyarrow.int64()
    if _is_number(text):
        yield pyarrow.string()
    else:
        yield pyarrow.timestamp("ns")
        yield pyarrow.timestamp("ns", "UTC")


def _is_number(text: bytes) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _times(column: Any) -> Times | None:
    """Times of a column of integers, dates, or the text of numbers; None where the csv reader must.

    Raises:
        pyarrow.ArrowException: a text that is no number.
    """
    import pyarrow
    import pyarrow.compute

    if not pyarrow.types.is_string(column.type):
        values = as_array(column.chunks)
        if values.dtype.kind != "M":
            return times_of(values)
        whole, nanoseconds = np.divmod(values.view(np.int64), 10**9)
        return exact_times(whole, nanoseconds * (PARTS // 10**9))
    try:
        numbers = column.cast("float64")
    except pyarrow.ArrowException:
        numbers = pyarrow.compute.utf8_trim(column, " \t").cast("float64")
    values = as_array(numbers.chunks)
    if not (np.abs(values) <= LARGEST_FLOAT).all():  # NaN is not either
        return None
    lengths = [np.diff(_offsets(chunk)).max(initial=0) for chunk in column.chunks]
    if max(lengths) > SHORT_NUMBER and len(column.unique()) != len(np.unique(values)):
        return None  # float64 may have made one of two
    return Times(values)


def _is_plain(content: bytes, quotes: bool) -> bool:
    """Whether lines and fields are no more than what stands between breaks and delimiters."""
    if (quotes and b'"' in content) or b"\0" in content:  # Python 3.10's csv module refuses NUL
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


def _as_records(
    found: list[Any], times: Times | None, columns: Columns, source: Source, header: bool
) -> Records | None:
    def where(row: int, column: Any) -> str:
        return f"{source.path}, line {line_of(source, row, header)}, column {column!r}"

    if columns.timestamp is not None and times is None:
        return None
    ratings = None if columns.rating is None else as_array(found[-1].chunks)
    if ratings is not None and not np.isfinite(ratings).all():
        return None

    def encode(number: int) -> Encoded:
        label = columns.labels[columns.used[number]]
        return _encode(found[number], label, where, quotes=source.quotes)

    with ThreadPoolExecutor(2) as pool:  # casts and sorts release the interpreter lock
        (users, user_ids, of_users), (items, item_ids, of_items) = pool.map(encode, (0, 1))
    path = str(source.path)
    return Records(users, items, times, user_ids, item_ids, path, ratings, (*of_users, *of_items))


def _encode(column: Any, label: Any, where: Where, *, quotes: bool) -> Encoded:
    """Indices and sorted ids of a column of strings."""
    with suppress(ValueError):  # pyarrow's error for what is no number, or beyond int64
        codes, ids = rank_integers(as_array(column.cast("int64").chunks))
        # An integer's own form is its shortest: equal lengths in sum mean that all are written so.
        if np.bincount(codes) @ _widths(ids) == _n_characters(column.chunks):
            return codes, ids, ()
    return encode_strings(column, label, where, quotes=quotes)


def _widths(numbers: np.ndarray) -> np.ndarray:
    """Length of ``str`` of every number."""
    sizes = np.abs(numbers).view(np.uint64)  # the lowest int64 has no absolute value among them
    powers = np.uint64(10) ** np.arange(1, 20, dtype=np.uint64)
    return 1 + np.searchsorted(powers, sizes, side="right") + (numbers < 0)


def _n_characters(chunks: list[Any]) -> int:
    """Bytes of the strings of all chunks."""
    return sum(int(offsets[-1]) - int(offsets[0]) for offsets in map(_offsets, chunks))


def _offsets(chunk: Any) -> np.ndarray:
    """Where the strings of a chunk begin, and where the last one ends."""
    offsets = np.frombuffer(chunk.buffers()[1], np.int32)
    return offsets[chunk.offset : chunk.offset + len(chunk) + 1]
