"""Features of items: from a file, and beside the items of a catalogue."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pdrec_fast.data.arrow import sound
from pdrec_fast.data.ids import encode_column
from pdrec_fast.errors import DataError, MissingExtraError, one_line

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
    table = _table(path, item)
    twice = {name for name in table.column_names if table.column_names.count(name) > 1}
    if twice:
        raise DataError(f"{path}: column {min(twice)!r} occurs twice; name every column otherwise")
    if item not in table.column_names:
        raise DataError(f"{path}: no column {item!r} for the item; there are {table.column_names}")
    names = [name for name in table.column_names if name != item]
    if not names:
        raise DataError(f"{path}: no column beside {item!r}, and so no features")
    columns = [_column(table[name], name, path) for name in names]
    return table[item].to_pylist(), np.concatenate(columns, axis=1)


def _table(path: Path, item: str) -> Any:
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
            # Ids as they are written: 007 is no number.
            kinds = pyarrow.csv.ConvertOptions(
                column_types={item: pyarrow.string()}, strings_can_be_null=False
            )
            return _named(pyarrow.csv.read_csv(path, parse_options=options, convert_options=kinds))
        if path.suffix == ".parquet":
            return _named(sound(pyarrow.parquet.read_table(path)))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error
    known = ", ".join([*_DELIMITERS, ".parquet"])
    raise DataError(f"{path}: unknown suffix {path.suffix!r}; name the file as one of {known}")


def _named(table: Any) -> Any:
    """The table, its columns' names being UTF-8."""
    table.column_names  # noqa: B018  pyarrow decodes them here
    return table


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


def check_features(features: np.ndarray, item_ids: np.ndarray) -> None:
    """Raises DataError unless there is one row of finite numbers for each item."""
    if features.ndim != 2 or len(features) != len(item_ids) or not features.shape[1]:
        raise DataError(f"item_features must have shape [{len(item_ids)}, F], got {features.shape}")
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise DataError(f"item {item_ids[bad.argmax()]!s} has features that are not finite")


def extended(
    item_ids: np.ndarray, places: Callable[[Any], np.ndarray], given: Any, features: Any
) -> tuple[np.ndarray, np.ndarray]:
    """A catalogue with the items that only features have behind its own, and all their features.

    Args:
        item_ids: [n_items] raw ids.
        places: where raw ids lie in the catalogue; -1 where they do not.
        given, features: see ``Interactions.with_item_features``.

    Returns:
        (raw ids, float32 [their number, F], zeros where nothing is known).
    """
    names = given.tolist() if hasattr(given, "tolist") else list(given)
    if not names:
        raise DataError("item features of no item at all")
    codes, distinct, _ = encode_column(
        np.array(names) if isinstance(names[0], (int, float)) else names, "item_ids", _where
    )
    if len(distinct) < len(codes):
        twice = distinct[np.bincount(codes).argmax()]
        raise DataError(f"item {str(twice)!r} has features twice")
    ids = distinct[codes]
    if np.ma.is_masked(features):
        features = features.astype(np.float32).filled(np.nan)
    vectors = np.asarray(features, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise DataError(
            f"features must have shape [{len(ids)}, F], one row for each id, got {vectors.shape}"
        )
    at = places(ids)
    n_known, new = int((at >= 0).sum()), np.flatnonzero(at < 0)
    if not n_known:
        raise DataError(
            f"none of {len(ids)} items with features (such as {str(ids[0])!r}) is among the "
            f"{len(item_ids)} of the interactions (such as {str(item_ids[0])!r})"
        )
    at[new] = len(item_ids) + np.arange(len(new))
    table = np.zeros((len(item_ids) + len(new), vectors.shape[1]), dtype=np.float32)
    table[at] = vectors
    if n_known < len(item_ids):
        warnings.warn(
            f"{len(item_ids) - n_known} of {len(item_ids)} items have no features: zeros in their "
            f"place; {len(new)} items that have some are new",
            stacklevel=3,
        )
    if not len(new):
        return item_ids, table
    if item_ids.dtype == ids.dtype == np.int64:
        return np.concatenate([item_ids, ids[new]]), table
    text = [*map(str, item_ids.tolist()), *map(str, ids[new].tolist())]
    return np.array(text, dtype=object), table


def _where(row: int, column: Any) -> str:
    return f"{column}, row {row} (counted from 0)"
