"""Arrow's columns: Parquet and Arrow files, and whatever hands over an Arrow table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pdrec_fast.data.ids import Encoded, encode_column, encode_names, missing_id
from pdrec_fast.data.records import (
    ColumnNames,
    Columns,
    NoRecordsError,
    Records,
    Where,
    no_records,
    resolve_columns,
)
from pdrec_fast.data.sources import PARQUET, Source
from pdrec_fast.data.text import as_ratings
from pdrec_fast.data.times import BadTimeError, Times, times_of
from pdrec_fast.errors import DataError, MissingExtraError, one_line


def read_arrow_file(source: Source, names: ColumnNames) -> Records:
    """Read a Parquet or Arrow (Feather, IPC file or stream) file.

    Raises:
        DataError: the file cannot be used; names the file, row (from 0) and column.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        kind = "Parquet" if source.kind in PARQUET else "Arrow files"
        raise MissingExtraError(
            f"{source.path}: reading {kind} needs pyarrow; pip install pdrec_fast[frames]"
        ) from error
    try:
        if source.kind not in PARQUET:
            return read_table(_arrow_table(source.path), names, str(source.path))
        file = pyarrow.parquet.ParquetFile(source.path)
        labels = file.schema_arrow.names
        columns = resolve_columns(names, labels, str(source.path))
        if len(set(labels)) < len(labels):
            table = sound(file.read())
            return _read(columns, table.column, table.num_rows, str(source.path))
        table = sound(file.read(columns=[labels[place] for place in columns.used]))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "Parquet" if source.kind in PARQUET else "Arrow"
        reason = one_line(error)
        raise DataError(f"{source.path}: not a readable {kind} file ({reason})") from error
    if table.num_rows != file.metadata.num_rows:
        raise DataError(
            f"{source.path}: not a readable Parquet file (it tells of {file.metadata.num_rows} "
            f"rows and holds {table.num_rows}); write it again"
        )
    return _read(
        columns, lambda place: table.column(labels[place]), table.num_rows, str(source.path)
    )


def read_table(table: Any, names: ColumnNames, source: str) -> Records:
    """Read a ``pyarrow.Table``.

    Raises:
        DataError: it cannot be used; names the row (from 0) and column.
    """
    columns = resolve_columns(names, table.column_names, source)
    return _read(columns, table.column, table.num_rows, source)


def _read(columns: Columns, column: Callable[[int], Any], n_rows: int, source: str) -> Records:
    """Args: column: the ``ChunkedArray`` at a position."""

    def where(row: int, label: Any) -> str:
        return f"{source}, row {row} (counted from 0), column {label!r}"

    if n_rows == 0:
        raise NoRecordsError(no_records(source))
    labels = columns.labels
    users, user_ids, of_users = _encode(column(columns.user), labels[columns.user], where)
    items, item_ids, of_items = _encode(column(columns.item), labels[columns.item], where)
    times = ratings = None
    if columns.timestamp is not None:
        times = _times(column(columns.timestamp), labels[columns.timestamp], where)
    if columns.rating is not None:
        values = column(columns.rating).to_pylist()
        ratings = as_ratings(values, labels[columns.rating], 0, where)
    remarks = (*of_users, *of_items)
    return Records(users, items, times, user_ids, item_ids, source, ratings, remarks)


def encode_strings(column: Any, label: Any, where: Where, *, quotes: bool = True) -> Encoded:
    """Ids of a column of strings without nulls; see ``encode_names``."""
    encoded = column.dictionary_encode().combine_chunks()
    codes = as_array([encoded.indices])
    return encode_names(codes, encoded.dictionary.to_pylist(), label, where, quotes=quotes)


def as_array(chunks: list[Any]) -> np.ndarray:
    """pyarrow's numbers or timestamps as one array; its own ``to_numpy`` imports pandas, which
    takes longer."""
    import pyarrow

    if len(chunks) and pyarrow.types.is_timestamp(chunks[0].type):
        unit = chunks[0].type.unit
        numbers = as_array([chunk.view(pyarrow.int64()) for chunk in chunks])
        return numbers.view(f"datetime64[{unit}]")
    return np.concatenate([np.from_dlpack(chunk) for chunk in chunks])


def _arrow_table(path: Path) -> Any:
    import pyarrow
    import pyarrow.ipc

    with pyarrow.memory_map(str(path)) as file:
        try:
            return sound(pyarrow.ipc.open_file(file).read_all())
        except pyarrow.ArrowInvalid:
            file.seek(0)
            return sound(pyarrow.ipc.open_stream(file).read_all())


def sound(table: Any) -> Any:
    """The table, once offsets, indices and text are known to be sound; Arrow believes a file and
    reads outside its memory otherwise.

    Raises:
        pyarrow.ArrowException: they are not.
    """
    table.validate(full=True)
    return table


def _encode(column: Any, label: Any, where: Where) -> Encoded:
    import pyarrow

    column = _plain(column)
    _check_present(column, label, where)
    kind = column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return encode_strings(column, label, where)
    return encode_column(column.to_numpy(), label, where)


def _times(column: Any, label: Any, where: Where) -> Times:
    column = _plain(column)
    try:
        if column.null_count:
            raise BadTimeError(_first_null(column), "timestamp is missing; repair the row")
        return times_of(column.to_numpy())
    except BadTimeError as error:
        raise DataError(f"{where(error.row, label)}: {error}") from None


def _check_present(column: Any, label: Any, where: Where) -> None:
    if column.null_count:
        raise DataError(missing_id(where(_first_null(column), label)))


def _first_null(column: Any) -> int:
    return int(np.argmax(column.is_null().to_numpy()))


def _plain(column: Any) -> Any:
    """The column without a dictionary, whose values may be null too, or views."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if str(column.type) == "string_view":
        column = column.cast(pyarrow.large_string())
    return column
