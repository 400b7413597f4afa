"""Damaged Parquet, Arrow and features' files, and tables in memory of odd values."""

from __future__ import annotations

import datetime
import io
import random
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pyarrow.parquet

from bench.fuzz.properties import Target, refused_as, require, same, warned
from bench.fuzz.text import columns_of, readings
from pdrec_fast.data import Interactions
from pdrec_fast.data.frames import read_frame
from pdrec_fast.data.item_features import read_item_features
from pdrec_fast.data.readers import read_file
from pdrec_fast.data.records import ColumnNames
from pdrec_fast.errors import DataError

_UTC = datetime.timezone.utc
_TABLES = (
    pyarrow.table({"user_id": [1, 1, 2], "item_id": [5, 6, 5], "timestamp": [3.5, 4.0, 1.0]}),
    pyarrow.table(
        {
            "user_id": pyarrow.array(["a", "b", "a"]).dictionary_encode(),
            "item_id": pyarrow.array(["x", "ω", "z"], pyarrow.large_string()),
            "timestamp": pyarrow.array([1, 2, 3], pyarrow.timestamp("us", "UTC")),
        }
    ),
    pyarrow.table({"user_id": [1.0, 2.0], "item_id": ["p", "q"], "rating": [4, 5]}),
)
_FEATURES = (
    pyarrow.table({"item_id": ["a", "b"], "price": [1.5, 2.0], "new": [0, 1]}),
    pyarrow.table({"item_id": [1, 2], "vector": [[0.5, 1.0], [2.0, 3.0]]}),
)
_CSV_FEATURES = (b"item_id,price,new\n007,1.5,0\nb,2,1\n", b'item_id,a\n"x,y",1e3\nz,-2\n')


def _file(suffix: str, content: bytes, folder: Path) -> None:
    """Read with as many records as pyarrow counts rows, all of them usable; or refused."""
    path = folder / f"fuzz{suffix}"
    path.write_bytes(content)
    with refused_as(DataError):
        records = read_file(path, columns_of(content))
        _check(readings(records), _n_rows(path))
        with warned():
            data = Interactions.from_file(path)
        require(data.n_records == len(records.users), "records that are no interactions")


def _check(found: dict[str, Any], n_rows: int) -> None:
    for name in ("users", "items"):
        require(len(found[name]) == n_rows, f"{n_rows} rows, {len(found[name])} {name}")
        "".join(map(str, found[name])).encode()  # or no file could hold them
    times = found["timestamps"]
    require(times is None or bool(np.isfinite(times).all()), f"timestamps {times}")


def _n_rows(path: Path) -> int:
    if path.suffix == ".parquet":
        return int(pyarrow.parquet.ParquetFile(path).metadata.num_rows)
    content = path.read_bytes()
    try:
        return int(pyarrow.ipc.open_file(content).read_all().num_rows)
    except pyarrow.ArrowInvalid:
        return int(pyarrow.ipc.open_stream(content).read_all().num_rows)


def _features(suffix: str, content: bytes, folder: Path) -> None:
    path = folder / f"fuzz{suffix}"
    path.write_bytes(content)
    with refused_as(DataError):
        ids, vectors = read_item_features(path)
        require(len(ids) == len(vectors), f"{len(ids)} ids, {len(vectors)} vectors")
        require(vectors.dtype == np.float32, f"vectors of {vectors.dtype}")


_IDS = (
    *(0, 1, -1, 7, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64, 10**30),
    *(1.0, 2.5, 1e300, float("nan"), float("inf"), True, None, "", " ", "1", "01", "1.0", "a", "A"),
    *("nan", "None", "true", "\ud800", "\0", "a\nb", "\u202e", "é", "e\u0301", "x" * 300),
    *(b"bytes", Decimal("3"), Decimal("NaN"), Decimal("sNaN"), Decimal("1e400"), (1, 2), [1]),
    *(np.int8(3), np.float32(4), np.str_("n"), np.bool_(True), np.datetime64("2020-01-01")),
    *(datetime.date(2020, 1, 1), object()),
)
_TIMES = (
    *(0, 1, -5, 2**53 + 1, 2**63 - 1, 2**64, 1.5, -0.0, 1e308, float("nan"), float("-inf"), None),
    *(
        "5",
        "1e3",
        "2020-01-01",
        "2020-01-01T00:00:00.1Z",
        "",
        "x",
        "nan",
        "1\n2",
        True,
        b"5",
        "1_0",
    ),
    *(datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=_UTC), Decimal("sNaN")),
    *(
        datetime.date(1, 1, 1),
        datetime.datetime(9999, 12, 31),
        np.datetime64("NaT"),
        Decimal("1.5"),
    ),
    *(np.datetime64("2020-01-01T00:00:00.000000001"), pandas.Timestamp("2020"), pandas.NaT),
    *(datetime.timedelta(1), datetime.time(1), object(), [1], np.float16(2), "9" * 400, "-1e400"),
)
_RATINGS = (1, 2.5, "3", "true", True, None, "x", float("nan"), "1\n2", Decimal("4"), 10**400, [1])


def _frames(content: bytes, folder: Path) -> None:
    """The bytes choose values: a table of them is read alike by lists and by one library, which
    they choose, too."""
    draw = random.Random(content)
    columns, names = _drawn(draw)
    _same_in(columns, names, [draw.choice(list(_LIBRARIES))])


def _every_frame(content: bytes, folder: Path) -> None:
    """The same table in all libraries."""
    _same_in(*_drawn(random.Random(content)), list(_LIBRARIES))


def _drawn(draw: random.Random) -> tuple[dict[str, list[Any]], ColumnNames]:
    """Columns of odd values, and which of them are read."""
    n_rows = draw.choice((0, 1, 2, 3, 5))
    kinds = draw.choice((1, 1, 1, 2, 3))
    columns: dict[str, list[Any]] = {
        name: draw.choices(draw.sample(values, kinds), k=n_rows)
        for name, values in (("user_id", _IDS), ("item_id", _IDS), ("timestamp", _TIMES))
    }
    names = ColumnNames()
    if draw.random() < 0.3:
        columns["rating"] = draw.choices(_RATINGS, k=n_rows)
        names = ColumnNames(rating="rating")
    if draw.random() < 0.2:
        del columns["timestamp"]
    return columns, names


def _same_in(columns: dict[str, list[Any]], names: ColumnNames, libraries: list[str]) -> None:
    n_rows = len(columns["user_id"])
    expected = None
    with refused_as(DataError):
        expected = readings(read_frame(columns, names))
    for name in libraries:
        try:
            frame = _LIBRARIES[name](columns)
        except Exception:
            continue  # the library's own refusal of such a column
        with refused_as(DataError):
            found = readings(read_frame(frame, names))
            if expected is not None and name == "objects":
                same(found, expected, f"{name} against lists")
            _check(found, n_rows)


def _polars(frame: Any, columns: dict[str, list[Any]]) -> Any:
    values = (value for column in columns.values() for value in column)
    if any(isinstance(value, Decimal) and value.is_nan() for value in values):
        raise TypeError("polars panics")
    return frame(columns)


_NO_DATES = (np.bool_, np.integer, np.floating)


def _arrow_table(columns: dict[str, list[Any]]) -> Any:
    for column in columns.values():
        kinds = set(map(type, column))
        if np.datetime64 in kinds and any(issubclass(kind, _NO_DATES) for kind in kinds):
            raise TypeError("NumPy's numbers after its dates end the process (pyarrow 26.0)")
    return pyarrow.table(columns)


_LIBRARIES: dict[str, Any] = {
    "objects": partial(pandas.DataFrame, dtype=object),
    "pandas": pandas.DataFrame,
    "polars": partial(_polars, polars.DataFrame),
    "polars, lazy": partial(_polars, polars.LazyFrame),
    "pyarrow": _arrow_table,
    "arrays": lambda columns: {name: np.array(values) for name, values in columns.items()},
}


def _parquet(table: pyarrow.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream, **options)
    return stream.getvalue()


def _arrow(table: pyarrow.Table, new: Any) -> bytes:
    stream = io.BytesIO()
    with new(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


TARGETS = {
    "parquet": Target(
        partial(_file, ".parquet"),
        lambda: (
            *(_parquet(table, compression="none") for table in _TABLES),
            _parquet(_TABLES[0], use_dictionary=False, compression="zstd"),
        ),
    ),
    "arrow": Target(
        partial(_file, ".arrow"),
        lambda: tuple(
            _arrow(table, new)
            for table in _TABLES
            for new in (pyarrow.ipc.new_file, pyarrow.ipc.new_stream)
        ),
    ),
    "features-csv": Target(partial(_features, ".csv"), lambda: _CSV_FEATURES),
    "features-parquet": Target(
        partial(_features, ".parquet"), lambda: tuple(map(_parquet, _FEATURES))
    ),
    "frames": Target(_frames, lambda: (b"0",), also=_every_frame),
}
