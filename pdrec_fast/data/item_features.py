"""Features of items: from a file, and beside the items of a catalogue."""

from __future__ import annotations

import warnings
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


def check_features(features: np.ndarray, item_ids: np.ndarray) -> None:
    """Raises DataError unless there is one row of finite numbers for each item."""
    if features.ndim != 2 or len(features) != len(item_ids) or not features.shape[1]:
        raise DataError(f"item_features must have shape [{len(item_ids)}, F], got {features.shape}")
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise DataError(f"item {item_ids[bad.argmax()]!s} has features that are not finite")


def extended(
    item_ids: np.ndarray, names: list[str], at: np.ndarray, features: Any
) -> tuple[np.ndarray, np.ndarray]:
    """A catalogue with the items that only features have behind its own, and all their features.

    Args:
        item_ids: [n_items] raw ids.
        names, features: see ``Interactions.with_item_features``; ids as text.
        at: int64, where each lies in the catalogue; -1 where it does not.

    Returns:
        (raw ids, float32 [their number, F], zeros where nothing is known).
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"item {twice!r} has features twice")
    vectors = np.asarray(features, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise DataError(
            f"features must have shape [{len(names)}, F], one row for each id, got {vectors.shape}"
        )
    new = np.flatnonzero(at < 0)
    all_ids: list[Any] = [*item_ids.tolist(), *(names[place] for place in new)]
    if item_ids.dtype == np.int64:
        whole = all(names[place].lstrip("-").isdigit() for place in new)
        all_ids = [int(name) for name in all_ids] if whole else [str(name) for name in all_ids]
    places = at.copy()
    places[new] = len(item_ids) + np.arange(len(new))
    table = np.zeros((len(all_ids), vectors.shape[1]), dtype=np.float32)
    table[places] = vectors
    missing = len(item_ids) - int((at >= 0).sum())
    if missing:
        warnings.warn(
            f"{missing} of {len(item_ids)} items have no features: zeros in their place",
            stacklevel=3,
        )
    whole_numbers = isinstance(all_ids[0], int)
    return np.array(all_ids, dtype=np.int64 if whole_numbers else object), table
