"""The tables of a study: the columns of its CSV files, and how these are read and written."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdrec_fast.errors import DataError, MissingExtraError
from pdrec_fast.files import write_text
from pdrec_fast.studies.variants import DATA_SET, VARIANT

if TYPE_CHECKING:
    import pandas as pd


_DATA_SET: dict[str, type] = dict.fromkeys(DATA_SET, str)
_VARIANT: dict[str, type] = dict.fromkeys(VARIANT, str)
_PLACE: dict[str, type] = dict.fromkeys(("protocol", "split", "metric"), str)
# What HBR makes of a history, a row per behaviour; each run has such a file too.
HBR = {
    "user": str, "position": int, "item": str, "timestamp": float, "preference": float,
    "rank": int, "weight": float,
}  # fmt: skip
# Table -> column -> type. In curves a missing number is empty text, elsewhere "nan".
TABLES: dict[str, dict[str, type]] = {
    # One metric of one run; seconds of training.
    "results": _VARIANT | {"seed": int} | _PLACE | {"value": float, "seconds": float},
    # A variant against ``baseline``: "none" for the plain model, other modules, or another model.
    "comparisons": _VARIANT | {"baseline": str} | _PLACE | {"seeds": int, "users": int}
    | dict.fromkeys(("mean", "sd", "baseline_mean", "baseline_sd", "gain_percent"), float)
    | {"p_seeds": float, "p_users": float},
    # ``valid`` is NaN after an epoch that was not validated.
    "curves": _VARIANT | {"seed": int, "epoch": int, "seconds": float, "loss": float}
    | {"valid": float},
    # Test cases by their item's rank under TI-DiffRec; known: 1 if the item occurs in training.
    "ranks": _DATA_SET | dict.fromkeys(("seed", "known", "rank_from", "rank_to", "cases"), int),
    # The metric on test by how many training records the target has.
    "popularity": _VARIANT | {"seed": int, "protocol": str, "metric": str}
    | dict.fromkeys(("records_from", "records_to", "cases"), int) | {"value": float},
    "hbr": _DATA_SET | {"seed": int} | HBR,
}  # fmt: skip


def need_extra(*packages: str) -> None:
    """Raise a MissingExtraError that says what to install, where one of ``packages`` is missing."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"studies need {name}: pip install 'pdrec_fast[studies]'")


def write_table(directory: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of the table ``name`` to its CSV file in ``directory``."""
    import pandas as pd

    table = pd.DataFrame(list(rows), columns=list(TABLES[name]))
    missing = "" if name == "curves" else "nan"
    write_text(directory / f"{name}.csv", table.to_csv(index=False, na_rep=missing))


def read_table(directory: Path, name: str) -> pd.DataFrame:
    """The table ``name`` from its CSV file in ``directory``; without rows where that is missing.

    Raises:
        DataError: a column is missing, or a cell is not of its column's type.
    """
    import pandas as pd

    path, types = directory / f"{name}.csv", TABLES[name]
    if not path.exists():
        return pd.DataFrame({column: pd.Series(dtype=kind) for column, kind in types.items()})
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False).fillna("")
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); give the study's command again") from None
    if absent := ", ".join(column for column in types if column not in text):
        raise DataError(f"{path}: no column {absent}; give the study's command again")
    cells = {column: _convert(path, text[column], kind) for column, kind in types.items()}
    return pd.DataFrame(cells)


def _number(cell: str) -> float:
    return float(cell) if cell else float("nan")


def _whole(cell: str) -> int:
    if not -(1 << 63) <= (number := int(cell)) < 1 << 63:
        raise ValueError("beyond 64 bits")
    return number


_CONVERT: dict[type, Callable[[str], Any]] = {str: str, int: _whole, float: _number}


def _convert(path: Path, cells: pd.Series, kind: type) -> pd.Series:
    """Numbers as Python reads them, so that they are to the last digit those that were written."""
    import pandas as pd

    values = []
    for line, cell in enumerate(cells, start=2):
        try:
            values.append(_CONVERT[kind](cell))
        except ValueError:
            raise DataError(
                f"{path}, line {line}, column {cells.name}: {cell!r} is no number; give the "
                "study's command again"
            ) from None
    return pd.Series(values, dtype=kind)
