"""Tables in memory: data frames, Arrow tables, DuckDB relations, columns of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pdrec_fast.checks import check_ordered
from pdrec_fast.data.arrow import read_table
from pdrec_fast.data.ids import encode_column
from pdrec_fast.data.records import (
    ColumnNames,
    Columns,
    NoRecordsError,
    Records,
    no_records,
    resolve_columns,
)
from pdrec_fast.data.text import as_ratings
from pdrec_fast.data.times import BadTimeError, times_of
from pdrec_fast.errors import DataError, MissingExtraError

_SOURCE = "the data frame"


def read_frame(frame: Any, names: ColumnNames) -> Records:
    """Read a pandas or polars data frame (polars: lazy, too), a ``pyarrow`` table or reader, a
    DuckDB relation or anything else that hands over an Arrow stream, or a dict of columns.

    Raises:
        TypeError: ``frame`` is none of these.
        DataError: the frame cannot be used; names the row (from 0) and column.
        MissingExtraError: an Arrow stream, but pyarrow is not installed.
    """
    if hasattr(frame, "collect_schema") and hasattr(frame, "collect"):  # polars, lazy
        labels = frame.collect_schema().names()
        columns = resolve_columns(names, labels, _SOURCE)
        frame = frame.select([labels[place] for place in columns.used]).collect()
        values = [column_values(frame[labels[place]]) for place in columns.used]
        return read_columns(values, columns, _SOURCE)
    if isinstance(frame, Mapping):
        columns = resolve_columns(names, list(frame), _SOURCE)
        given = [frame[columns.labels[place]] for place in columns.used]
        check_lengths({columns.labels[p]: v for p, v in zip(columns.used, given, strict=True)})
        return read_columns(list(map(column_values, given)), columns, _SOURCE)
    if hasattr(frame, "columns") and hasattr(frame, "to_numpy"):  # pandas, polars and their like
        columns = resolve_columns(names, list(frame.columns), _SOURCE)
        values = [column_values(_series(frame, place)) for place in columns.used]
        return read_columns(values, columns, _SOURCE)
    if hasattr(frame, "__arrow_c_stream__") or hasattr(frame, "to_arrow_table"):
        return read_table(_arrow_table(frame), names, "the table")
    raise TypeError(
        "frame must be a pandas or polars DataFrame, a pyarrow table, a DuckDB relation or a dict "
        f"of columns, not {type(frame).__name__}"
    )


def read_columns(values: Sequence[Any], columns: Columns, source: str) -> Records:
    """Read in-memory columns of equal length.

    Args:
        values: those of ``columns.used``, in this order.

    Raises:
        DataError: a value that cannot be used; names the row (from 0) and column.
    """

    def where(row: int, column: Any) -> str:
        return f"{source}, row {row} (counted from 0), column {column!r}"

    if len(values[0]) == 0:
        raise NoRecordsError(no_records(source))
    of = dict(zip(columns.used, values, strict=True))
    users, user_ids, of_users = encode_column(of[columns.user], columns.labels[columns.user], where)
    items, item_ids, of_items = encode_column(of[columns.item], columns.labels[columns.item], where)
    times = ratings = None
    if columns.timestamp is not None:
        label = columns.labels[columns.timestamp]
        try:
            times = times_of(of[columns.timestamp])
        except BadTimeError as error:
            raise DataError(f"{where(error.row, label)}: {error}") from None
    if columns.rating is not None:
        label = columns.labels[columns.rating]
        ratings = as_ratings(of[columns.rating], label, 0, where)
    remarks = (*of_users, *of_items)
    return Records(users, items, times, user_ids, item_ids, source, ratings, remarks)


def check_lengths(columns: Mapping[Any, Any]) -> None:
    """Raises ValueError where columns are not equally long, and TypeError where one is none."""
    for name, values in columns.items():
        check_ordered(**{str(name): values})
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__") or _is_scalar(values):
            raise TypeError(f"{name} must be a list or an array of rows, got {values!r}")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the arrays must be equally long, got lengths {lengths}")


def _is_scalar(values: Any) -> bool:
    return getattr(values, "ndim", 1) == 0


def column_values(series: Any) -> Any:
    """Values of a series or array; times with a zone become UTC."""
    if isinstance(series, np.ma.MaskedArray):  # as a list, a masked value is None
        return series.tolist() if np.ma.is_masked(series) else series.data
    if isinstance(series, np.ndarray):
        return series
    if hasattr(series, "to_pylist"):  # pyarrow's arrays
        return series.to_pylist()
    if not hasattr(series, "to_numpy"):
        return series
    if "Int128" in str(series.dtype):  # polars' has none of NumPy's types
        return series.to_list()
    if getattr(series.dtype, "kind", None) != "M":
        return series.to_numpy()
    if getattr(series.dtype, "tz", None) is not None:
        series = series.dt.tz_convert(None)
    values = series.to_numpy()
    if values.dtype.kind != "M":
        return values
    # Pandas' former unit, where it holds the times: the same float64 as ever.
    nanoseconds = values.astype("datetime64[ns]")
    return nanoseconds if (nanoseconds.astype(values.dtype) == values).all() else values


def _series(frame: Any, place: int) -> Any:
    return frame.iloc[:, place] if hasattr(frame, "iloc") else frame.to_series(place)


def _arrow_table(stream: Any) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError(
            "reading an Arrow table needs pyarrow; pip install pdrec_fast[frames]"
        ) from error
    if hasattr(stream, "__arrow_c_stream__"):
        return pyarrow.RecordBatchReader.from_stream(stream).read_all()
    return stream.to_arrow_table()
