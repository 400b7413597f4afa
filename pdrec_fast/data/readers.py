"""Reading interactions from text files, Parquet, data frames and arrays.

Every reader ends in :class:`Records`. What cannot be used is refused with a
:class:`~pdrec_fast.errors.DataError` that names the place.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from pdrec_fast.data.plain_text import header_columns, read_plain_text
from pdrec_fast.data.records import (
    LARGEST_TIME,
    ColumnNames,
    Records,
    rank_ids,
    rank_integers,
    resolve_columns,
)
from pdrec_fast.errors import DataError, MissingExtraError

DELIMITERS = {".inter": "\t", ".tsv": "\t", ".csv": ","}
# Fewer live rows than the garbage collector's first threshold: a longer chunk is traversed again
# and again and takes up to three times as long.
ROWS_PER_CHUNK = 512

Where = Callable[[int, str], str]
"""Row (from 0) and column -> the words that tell the user where that value stands."""


_DATE = re.compile(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")


def read_file(path: str | Path, names: ColumnNames) -> Records:
    """Read a ``.inter``, ``.tsv``, ``.csv`` or ``.parquet`` file.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file cannot be used; names the file, line and column.
        MissingExtraError: a Parquet file without pyarrow installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path, names)
    if suffix not in DELIMITERS:
        known = ", ".join([*DELIMITERS, ".parquet"])
        raise DataError(f"{path}: unknown suffix {path.suffix!r}; name the file as one of {known}")
    plain = read_plain_text(path, names, DELIMITERS[suffix])
    return _read_text(path, names) if plain is None else plain


def read_frame(frame: Any, names: ColumnNames) -> Records:
    """Read a pandas or polars data frame.

    Raises:
        TypeError: ``frame`` is not a data frame.
        DataError: the frame cannot be used; names the row (from 0) and column.
    """
    if not hasattr(frame, "columns") or not hasattr(frame, "__getitem__"):
        raise TypeError(f"frame must be a pandas or polars DataFrame, not {type(frame).__name__}")
    wanted = resolve_columns(names, list(frame.columns), "the data frame")
    return read_columns(
        {name: _series_values(frame[name]) for name in wanted if name is not None},
        wanted,
        "the data frame",
    )


def read_columns(
    columns: dict[str, Any], wanted: tuple[str, str, str | None], source: str
) -> Records:
    """Read in-memory columns of equal length; ``wanted`` names user, item and timestamp."""
    user, item, timestamp = wanted

    def where(row: int, column: str) -> str:
        return f"{source}, row {row} (counted from 0), column {column!r}"

    if len(columns[user]) == 0:
        raise DataError(_no_records(source))
    users, user_ids = _encode_column(columns[user], user, where)
    items, item_ids = _encode_column(columns[item], item, where)
    times = None if timestamp is None else _as_seconds(columns[timestamp], timestamp, 0, where)
    return Records(users, items, times, user_ids, item_ids, source)


def _read_text(path: Path, names: ColumnNames) -> Records:
    delimiter = DELIMITERS[path.suffix.lower()]

    def where(row: int, column: str) -> str:
        return f"{path}, line {_line_of(path, row)}, column {column!r}"

    try:
        with _open(path) as lines:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            header = next((row for row in reader if row), None)
            if header is None:
                raise DataError(f"{path}: the file is empty; expected a header line and records")
            columns = header_columns(header, path)
            wanted = resolve_columns(names, columns, str(path))
            used = [columns.index(name) for name in wanted if name is not None]
            builder = _RecordBuilder(wanted, where)
            while chunk := list(islice(reader, ROWS_PER_CHUNK)):
                rows = [row for row in chunk if row]  # csv gives [] for a blank line
                _check_width(rows, len(columns), builder.n_rows, path)
                if rows:
                    fields = list(zip(*rows, strict=True))
                    builder.add(*(fields[place] for place in used))
    except UnicodeDecodeError:
        raise DataError(_describe_undecodable(path)) from None
    except csv.Error as error:
        line = _line_of(path, sys.maxsize)
        raise DataError(
            f"{path}, line {line}: the row cannot be parsed ({error}); check its quotes"
        ) from None
    return builder.finish(str(path))


def _read_parquet(path: Path, names: ColumnNames) -> Records:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: reading Parquet needs pyarrow; pip install pdrec_fast[frames]"
        ) from error
    try:
        schema = pyarrow.parquet.read_schema(path)
        wanted = resolve_columns(names, schema.names, str(path))
        read = [name for name in wanted if name is not None]
        table = pyarrow.parquet.read_table(path, columns=list(dict.fromkeys(read)))
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    return read_columns({name: table[name].to_numpy() for name in read}, wanted, str(path))


class _RecordBuilder:
    """Collects rows chunk by chunk, so that a text file is never held whole as Python objects."""

    def __init__(self, wanted: tuple[str, str, str | None], where: Where) -> None:
        self._user, self._item, self._timestamp = wanted
        self._where = where
        self._users = _IdEncoder()
        self._items = _IdEncoder()
        self._times: list[np.ndarray] = []
        self.n_rows = 0

    def add(self, users: Sequence[str], items: Sequence[str], timestamps: Any = None) -> None:
        self._users.add(users)
        self._items.add(items)
        if self._timestamp is not None:
            self._times.append(
                _as_seconds(timestamps, self._timestamp, self.n_rows, self._where),
            )
        self.n_rows += len(users)

    def finish(self, source: str) -> Records:
        if self.n_rows == 0:
            raise DataError(_no_records(source))
        users, user_ids = self._users.finish(self._user, self._where)
        items, item_ids = self._items.finish(self._item, self._where)
        times = np.concatenate(self._times) if self._timestamp is not None else None
        return Records(users, items, times, user_ids, item_ids, source)


def _no_records(source: str) -> str:
    return f"{source}: no records, only column names; expected at least one row"


class _IdEncoder:
    """Numbers distinct ids as they come, then renumbers them in sorted order."""

    def __init__(self) -> None:
        self._numbers: defaultdict[str, int] = defaultdict()
        self._numbers.default_factory = self._numbers.__len__
        self._codes: list[np.ndarray] = []

    def add(self, ids: Sequence[str]) -> None:
        self._codes.append(np.fromiter(map(self._numbers.__getitem__, ids), np.int64, len(ids)))

    def finish(self, column: str, where: Where) -> tuple[np.ndarray, np.ndarray]:
        codes = np.concatenate(self._codes)
        names = list(self._numbers)
        blank = [number for number, name in enumerate(names) if not name.strip()]
        if blank:
            row = int(np.flatnonzero(np.isin(codes, blank))[0])
            raise DataError(_missing_id(where(row, column)))
        return rank_ids(codes, names)


def _encode_column(values: Any, column: str, where: Where) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind == "i":
        return rank_integers(values.astype(np.int64))
    encoder = _IdEncoder()
    encoder.add(_as_strings(values, column, where))
    return encoder.finish(column, where)


def _as_strings(values: Any, column: str, where: Where) -> list[str]:
    """Ids as strings, refusing what is neither a string nor an integer."""
    ids = values.tolist() if hasattr(values, "tolist") else list(values)
    kinds = set(map(type, ids))
    unusable = {kind for kind in kinds if not issubclass(kind, (str, int, np.integer))}
    unusable |= kinds & {bool}
    if not unusable:
        return ids if kinds == {str} else list(map(str, ids))
    rows = [row for row, value in enumerate(ids) if type(value) in unusable]
    for row in rows:
        if _is_null(ids[row]):
            raise DataError(_missing_id(where(row, column)))
    raise DataError(
        f"{where(rows[0], column)}: id {ids[rows[0]]!r} is neither a string nor an integer; "
        "convert the column"
    )


def _is_null(value: Any) -> bool:
    is_nan = isinstance(value, float) and value != value
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def _missing_id(place: str) -> str:
    return f"{place}: the id is missing; give every record an id or remove the row"


def _as_seconds(values: Any, column: str, first_row: int, where: Where) -> np.ndarray:
    """Finite float64 timestamps; datetime64 becomes unix seconds."""
    kind = values.dtype.kind if isinstance(values, np.ndarray) else "O"
    if kind == "M":
        times = (values - np.datetime64(0, "s")) / np.timedelta64(1, "s")
    elif kind in "iuf":
        times = values.astype(np.float64)
    else:
        times = _parse_floats(values, column, first_row, where)
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise DataError(_bad_timestamp(where(first_row + int(bad[0]), column), values[bad[0]]))
    large = np.flatnonzero(np.abs(times) > LARGEST_TIME)
    if len(large):
        place = where(first_row + int(large[0]), column)
        raise DataError(
            f"{place}: timestamp {values[large[0]]} is too large to keep its order as a float64; "
            "divide the column, e.g. nanoseconds to seconds"
        )
    return times


def _parse_floats(values: Sequence[Any], column: str, first_row: int, where: Where) -> np.ndarray:
    try:
        return np.fromiter(map(float, values), np.float64, len(values))
    except (ValueError, TypeError, OverflowError):
        for row, value in enumerate(values):
            try:
                float(value)
            except (ValueError, TypeError, OverflowError):
                place = where(first_row + row, column)
                raise DataError(_bad_timestamp(place, value)) from None
        raise


def _bad_timestamp(place: str, value: Any) -> str:
    advice = "timestamps are numbers such as unix seconds: repair or remove the row"
    if _DATE.match(str(value)):
        advice = (
            "it looks like a date: turn the column into unix seconds, or read it from Parquet or a "
            "data frame with a datetime column"
        )
    return f"{place}: timestamp '{value}' is not a finite number; {advice}"


def _series_values(series: Any) -> np.ndarray:
    """Values of a pandas or polars series; pandas times with a zone become UTC."""
    if getattr(series.dtype, "kind", None) == "M":
        return series.to_numpy(dtype="datetime64[ns]")
    return series.to_numpy()


def _open(path: Path) -> TextIO:
    return open(path, encoding="utf-8-sig", newline="")


def _check_width(rows: list[list[str]], width: int, first_row: int, path: Path) -> None:
    if set(map(len, rows)) <= {width}:
        return
    row, found = next((i, len(row)) for i, row in enumerate(rows) if len(row) != width)
    raise DataError(
        f"{path}, line {_line_of(path, first_row + row)}: {found} fields where the header has "
        f"{width}; repair or remove the row"
    )


def _line_of(path: Path, row: int) -> int:
    """Line (the first is 1) where data row ``row`` starts, or where the first unparsable one does.

    Only errors need line numbers, and quoted line breaks and blank lines move them, so the file is
    read again rather than tracked.
    """
    start, rows_before = 1, row + 1
    with _open(path) as lines:
        reader = csv.reader(lines, delimiter=DELIMITERS[path.suffix.lower()], strict=True)
        try:
            for fields in reader:
                if fields:
                    if rows_before == 0:
                        break
                    rows_before -= 1
                start = reader.line_num + 1
        except csv.Error:
            pass
    return start


def _describe_undecodable(path: Path) -> str:
    content = path.read_bytes()
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"{path}, line {line}: not UTF-8 text ({error.reason}); save the file as UTF-8"
    raise AssertionError(f"{path} changed while it was read")
