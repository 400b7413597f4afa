"""Delimited text through the csv module: the reference, and whatever is not ordinary."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from itertools import islice
from typing import Any, TextIO

import numpy as np

from pdrec_fast.data.ids import TRUTH_VALUES, IdEncoder
from pdrec_fast.data.records import (
    ColumnNames,
    Columns,
    NoRecordsError,
    Records,
    Remark,
    Where,
    no_records,
    resolve_columns,
)
from pdrec_fast.data.sources import Source
from pdrec_fast.data.times import BadTimeError, TextTimes, Times, join_times
from pdrec_fast.errors import DataError

# Fewer live rows than the garbage collector's first threshold: a longer chunk is traversed again
# and again and takes up to three times as long.
ROWS_PER_CHUNK = 512


def read_text(source: Source, names: ColumnNames, header: bool = True) -> Records:
    """Read a ``.inter``, ``.tsv`` or ``.csv`` file.

    Raises:
        DataError: the file cannot be used; names the file, line and column.
    """

    def where(row: int, column: Any) -> str:
        return f"{source.path}, line {line_of(source, row, header)}, column {column!r}"

    spans = _SpanningFields(source)
    try:
        with source.open_text() as lines:
            reader = rows_of(source, lines)
            labels, first = _labels(source, reader, header)
            columns = resolve_columns(names, labels, str(source.path))
            builder = RecordBuilder(columns, where, quotes=source.quotes)
            chunk = [first] if first else []
            while chunk := chunk + list(islice(reader, ROWS_PER_CHUNK)):
                rows = [row for row in chunk if row]  # csv gives [] for a blank line
                _check_width(rows, len(labels), builder.n_rows, source, header)
                spans.look(chunk, reader.line_num, builder.n_rows, columns, where)
                if rows:
                    fields = list(zip(*rows, strict=True))
                    builder.add(*(fields[place] for place in columns.used))
                chunk = []
    except UnicodeDecodeError:
        raise DataError(source.describe_undecodable()) from None
    except csv.Error as error:
        raise unparsable(source, error, header) from None
    return builder.finish(str(source.path), spans.remarks(header))


class RecordBuilder:
    """Collects rows chunk by chunk, so that a text file is never held whole as Python objects."""

    def __init__(self, columns: Columns, where: Where, *, quotes: bool = True) -> None:
        self._columns = columns
        self._where = where
        self._quotes = quotes
        self._users = IdEncoder()
        self._items = IdEncoder()
        self._text_times = TextTimes()
        self._times: list[Times] = []
        self._ratings: list[np.ndarray] = []
        self.n_rows = 0

    def add(self, users: Sequence[str], items: Sequence[str], *others: Sequence[Any]) -> None:
        """Args: others: timestamps and ratings, where there are such columns."""
        self._users.add(users)
        self._items.add(items)
        numbers = list(others)
        if self._columns.timestamp is not None:
            try:
                self._times.append(self._text_times.read(numbers.pop(0)))
            except BadTimeError as error:
                place = self._where(error.row, self._label(self._columns.timestamp))
                raise DataError(f"{place}: {error}") from None
        if self._columns.rating is not None:
            label = self._label(self._columns.rating)
            self._ratings.append(as_ratings(numbers[0], label, self.n_rows, self._where))
        self.n_rows += len(users)

    def finish(self, source: str, remarks: Sequence[Remark] = ()) -> Records:
        if self.n_rows == 0:
            raise NoRecordsError(no_records(source))
        user, item = map(self._label, self._columns[:2])
        users, user_ids, of_users = self._users.finish(user, self._where, quotes=self._quotes)
        items, item_ids, of_items = self._items.finish(item, self._where, quotes=self._quotes)
        return Records(
            users,
            items,
            join_times(self._times) if self._times else None,
            user_ids,
            item_ids,
            source,
            np.concatenate(self._ratings) if self._ratings else None,
            (*remarks, *of_users, *of_items),
        )

    def _label(self, position: Any) -> Any:
        return self._columns.labels[position]


def as_ratings(values: Sequence[Any], column: Any, first_row: int, where: Where) -> np.ndarray:
    """Ratings as float64; true is 1 and false is 0, as values or as text.

    Raises:
        DataError: one is not a finite number.
    """
    try:
        ratings = np.fromiter(map(_rating, values), np.float64, len(values))
        row = int((~np.isfinite(ratings)).argmax())
        if np.isfinite(ratings).all():
            return ratings
    except (ValueError, TypeError, OverflowError):
        row = next(row for row, value in enumerate(values) if not _is_number(value))
    raise DataError(
        f"{where(first_row + row, column)}: rating '{values[row]}' is not a finite number; repair "
        "or remove the row"
    )


def _rating(value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        if str(value).lower() not in TRUTH_VALUES:
            raise
        return float(str(value).lower() == "true")


def _is_number(value: Any) -> bool:
    try:
        _rating(value)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def rows_of(source: Source, lines: TextIO) -> Any:
    """The csv module's reader of a file."""
    if source.quotes:
        return csv.reader(lines, delimiter=source.delimiter, strict=True)
    return csv.reader(lines, delimiter=source.delimiter, strict=True, quoting=csv.QUOTE_NONE)


def unparsable(source: Source, error: csv.Error, header: bool) -> DataError:
    """For the first row that the csv module cannot read."""
    line = line_of(source, sys.maxsize, header)
    return DataError(
        f"{source.path}, line {line}: the row cannot be parsed ({error}); check its quotes"
    )


def labels_of(header: list[str], source: Source) -> list[str]:
    """Column names of a header row; RecBole's are written ``name:type``."""
    labels = [name.strip() for name in header]
    if source.kind == ".inter":
        labels = [name.split(":")[0] for name in labels]
    return labels


def line_of(source: Source, row: int, header: bool) -> int:
    """Line (the first is 1) where data row ``row`` starts, or where the first unparsable one does.

    Only messages need line numbers, and quoted line breaks and blank lines move them, so the file
    is read again rather than tracked.
    """
    start, rows_before = 1, row + header
    with source.open_text() as lines:
        reader = rows_of(source, lines)
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


def _labels(source: Source, reader: Any, header: bool) -> tuple[list[Any], list[str] | None]:
    """Labels of the columns, and the first row where there is no header: positions are labels."""
    first = next((row for row in reader if row), None)
    if first is None:
        expected = "a header line and records" if header else "records"
        raise NoRecordsError(f"{source.path}: the file is empty; expected {expected}")
    if header:
        return labels_of(first, source), None
    return list(range(len(first))), first


class _SpanningFields:
    """Quoted fields that span lines, which a stray quotation mark makes of many records."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._n = 0
        self._first: tuple[int, int] | None = None  # row and number of breaks
        self._last_line = 0

    def look(
        self, chunk: list[list[str]], last_line: int, n_before: int, columns: Columns, where: Where
    ) -> None:
        """Refuses those of ids; counts the others.

        Args:
            chunk: rows as they were read, blank ones too.
            last_line: number of lines read.
            n_before: number of rows before the chunk, without blank ones.
        """
        n_lines, self._last_line = last_line - self._last_line, last_line
        if not self._source.quotes or n_lines == len(chunk):
            return
        for row, fields in enumerate((fields for fields in chunk if fields), n_before):
            breaks = sum(map(_breaks, fields))
            if not breaks:
                continue
            for place in columns[:2]:
                if _breaks(fields[place]):
                    raise DataError(
                        f"{where(row, columns.labels[place])}: the id goes on over "
                        f"{_breaks(fields[place]) + 1} lines, as if a quotation mark were left "
                        'open; write a mark within a field as "" and remove stray ones'
                    )
            self._n += 1
            self._first = self._first or (row, breaks)

    def remarks(self, header: bool) -> list[Remark]:
        if self._first is None:
            return []
        row, breaks = self._first
        line = line_of(self._source, row, header)
        return [
            Remark(
                ("lines", ""),
                self._n,
                f"{self._source.path}, lines {line} to {line + breaks}",
                "a quoted field goes on over lines, as in {n} records; if that is not meant, a "
                'stray quotation mark has made one record of several: write it as ""',
            )
        ]


def _breaks(field: str) -> int:
    return field.count("\n") + field.count("\r") - field.count("\r\n")


def _check_width(
    rows: list[list[str]], width: int, first_row: int, source: Source, header: bool
) -> None:
    if set(map(len, rows)) <= {width}:
        return
    row, found = next((i, len(row)) for i, row in enumerate(rows) if len(row) != width)
    expected = f"the header has {width}" if header else f"the first row has {width}"
    raise DataError(
        f"{source.path}, line {line_of(source, first_row + row, header)}: {found} fields where "
        f"{expected}; repair or remove the row"
    )
