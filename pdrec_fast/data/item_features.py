"""Features of items from a file: Parquet, CSV or TSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pdrec_fast.errors import DataError, MissingExtraError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_item_features(path: str | Path, item: str = "item_id") -> tuple[list[Any], np.ndarray]:
    """Ids and vectors, for ``Interactions.with_item_features``.

    Args:
        path: a ``.parquet``, ``.csv`` or ``.tsv`` file with column names. All columns but ``item``
            are features: numbers, or one column of lists of equal lengths (Parquet).
        item: name of the item column.

    Returns:
        raw ids [n], float32 [n, F].

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file cannot be used; names the column.
        MissingExtraError: pyarrow is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    table = _table(path)
    if item not in table.column_names:
        raise DataError(f"{path}: no column {item!r} for the item; there are {table.column_names}")
    names = [name for name in table.column_names if name != item]
    if not names:
        raise DataError(f"{path}: no column beside {item!r}, and so no features")
    columns = [_column(table[name], name, path) for name in names]
    return table[item].to_pylist(), np.concatenate(columns, axis=1)


def _table(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: reading features needs pyarrow; pip install pdrec_fast[frames]"
        ) from error
    try:
        if path.suffix in _DELIMITERS:
            options = pyarrow.csv.ParseOptions(delimiter=_DELIMITERS[path.suffix])
            return pyarrow.csv.read_csv(path, parse_options=options)
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    known = ", ".join([*_DELIMITERS, ".parquet"])
    raise DataError(f"{path}: unknown suffix {path.suffix!r}; name the file as one of {known}")


def _column(values: Any, name: str, path: Path) -> np.ndarray:
    """One column of features as float32 [n, width]."""
    if values.null_count:
        raise DataError(f"{path}, column {name!r}: {values.null_count} missing value(s)")
    try:
        rows = np.array(values.to_pylist(), dtype=np.float32)
    except (ValueError, TypeError):
        raise DataError(
            f"{path}, column {name!r}: neither numbers nor lists of as many numbers each "
            f"({values.type}); leave the column out"
        ) from None
    return rows[:, None] if rows.ndim == 1 else rows
