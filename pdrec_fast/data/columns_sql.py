"""Columns of ids and times as DuckDB's expressions, by the rules of ``ids`` and ``times``.

A value that cannot be used becomes NULL, which ``preparing`` finds and names.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

import numpy as np

from pdrec_fast.data.times import LARGEST_FLOAT, PARTS, Moment, largest_float
from pdrec_fast.errors import DataError

_LARGEST = int(LARGEST_FLOAT)
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
_WIDE = ("UBIGINT", "HUGEINT", "UHUGEINT")
_FLOATS = {"FLOAT": int(largest_float(np.dtype(np.float32))), "DOUBLE": _LARGEST}
_DATES = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP WITH TIME ZONE")
_CLOCK = r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?"
_ISO = rf"\s*\d{{4}}-\d\d-\d\d([T ]{_CLOCK}\s*(Z|UTC|[+-]\d\d(:\d\d)?)?)?\s*"


class TimeColumn(NamedTuple):
    """A column of times.

    Attributes:
        value: the time, as float64.
        key: what keeps the exact order.
        per_unit: keys in one unit of the value: microseconds in a second, say.
        kind: of the key: "integer", "float" or "decimal".
        dated: whether the values are unix seconds because dates were read.
    """

    value: str
    key: str
    per_unit: int
    kind: str
    dated: bool

    def at_or_after(self, moment: Moment) -> str:
        """The condition that a record, with the key ``k``, is not before a moment."""
        if self.kind == "float":
            return f"k >= {moment.value!r}::DOUBLE"
        if self.kind == "decimal":
            exact = Decimal(moment.whole) + Decimal(moment.part) / PARTS
            return f"k >= {exact:f}"
        return f"k >= {moment.whole * self.per_unit - (-moment.part * self.per_unit // PARTS)}"


def id_column(name: str, kind: str, place: str) -> tuple[str, bool]:
    """A column of raw ids, and whether it is text, which may turn out to be whole numbers.

    Args:
        name: the column, quoted.
        kind: its type in DuckDB.
        place: for messages.

    Raises:
        DataError: no type of ids.
    """
    if kind in _INTEGERS:
        return f"{name}::BIGINT", False
    if kind in _FLOATS:
        usable = f"abs({name}) <= {_FLOATS[kind]} AND {name} = floor({name})"
        return f"CASE WHEN {usable} THEN {name}::BIGINT END", False
    if kind in _WIDE:
        return f"{name}::VARCHAR", True
    if kind.startswith("DECIMAL"):
        return f"CASE WHEN {name} = floor({name}) THEN {name}::HUGEINT::VARCHAR END", True
    if kind == "VARCHAR" or kind.startswith("ENUM"):
        text = f"{name}::VARCHAR"
        return f"CASE WHEN NOT regexp_full_match({text}, '\\s*') THEN {text} END", True
    raise DataError(f"{place}: {kind} is no type of ids; convert the column to integers or text")


def text_ids(column: str) -> tuple[str, str]:
    """Conditions on text ids: an integer in the one way ``str`` writes it; a whole number, perhaps
    with ``.0`` after it."""
    integer = (
        f"(regexp_full_match({column}, '0|-?[1-9][0-9]*') "
        f"AND TRY_CAST({column} AS BIGINT) IS NOT NULL)"
    )
    whole = (
        f"(regexp_full_match({column}, '(0|-?[1-9][0-9]{{0,15}})(\\.0+)?') "
        f"AND TRY_CAST(split_part({column}, '.', 1) AS BIGINT) BETWEEN -{_LARGEST} AND {_LARGEST})"
    )
    return integer, whole


def time_column(name: str, kind: str, text_is_dates: bool, place: str) -> TimeColumn:
    """A column of times; see ``id_column``.

    Args:
        text_is_dates: where it is text, whether that of the first record is a date.

    Raises:
        DataError: no type of times.
    """
    if kind in (*_INTEGERS, *_WIDE):
        key = f"TRY_CAST({name} AS BIGINT)"
        return TimeColumn(f"{key}::DOUBLE", key, 1, "integer", False)
    if kind in _FLOATS:
        usable = f"isfinite({name}) AND abs({name}) <= {_FLOATS[kind]}"
        value = f"CASE WHEN {usable} THEN {name}::DOUBLE END"
        return TimeColumn(value, value, 1, "float", False)
    if kind in _DATES:
        moment = name if kind == "TIMESTAMP WITH TIME ZONE" else f"{name}::TIMESTAMP"
        key = f"CASE WHEN isfinite({name}) THEN epoch_us({moment}) END"
        return TimeColumn(f"({key})::DOUBLE / 1e6", key, 10**6, "integer", True)
    if kind == "TIMESTAMP_NS":
        key = f"epoch_ns({name})"
        return TimeColumn(f"{key}::DOUBLE / 1e9", key, 10**9, "integer", True)
    text = f"{name}::VARCHAR"
    if kind.startswith("DECIMAL") or (kind == "VARCHAR" and not text_is_dates):
        return _text_numbers(text)
    if kind == "VARCHAR":
        return _text_dates(text)
    raise DataError(
        f"{place}: {kind} is no type of times; convert the column to numbers or a datetime"
    )


def _text_numbers(text: str) -> TimeColumn:
    value = f"TRY_CAST({text} AS DOUBLE)"
    integer = (
        f"regexp_full_match({text}, '\\s*[+-]?\\d+\\s*') AND TRY_CAST({text} AS BIGINT) IS NOT NULL"
    )
    usable = f"isfinite({value}) AND (abs({value}) <= {_LARGEST} OR {integer})"
    key = f"TRY_CAST({text} AS DECIMAL(38, 18))"
    return TimeColumn(f"CASE WHEN {usable} THEN {value} END", key, 1, "decimal", False)


def _text_dates(text: str) -> TimeColumn:
    moment = f"TRY_CAST({text} AS TIMESTAMPTZ)"
    key = f"CASE WHEN regexp_full_match({text}, '{_ISO}') THEN epoch_us({moment}) END"
    # As exact_times adds them up, so that the last bit is the same.
    part = f"((({key}) % 1000000 + 1000000) % 1000000)"
    seconds = f"((({key}) - {part}) // 1000000)::DOUBLE"
    value = f"{seconds} + ({part} * 1000000000000)::DOUBLE / 1e18"
    return TimeColumn(value, key, 10**6, "integer", True)


def quoted(text: object) -> str:
    """As a literal of SQL."""
    return "'" + str(text).replace("'", "''") + "'"
