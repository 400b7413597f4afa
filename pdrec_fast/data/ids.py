"""Raw ids of every kind as dense indices into sorted distinct ids: int64 where all are integers,
else str."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import numpy as np

from pdrec_fast.data.ordering import stable_order
from pdrec_fast.data.records import Remark, Where
from pdrec_fast.data.times import LARGEST_FLOAT, largest_float
from pdrec_fast.errors import DataError

_TABLE_SLOTS_PER_ROW = 4  # a larger table costs more than sorting
_LONGEST = 4_000  # digits of a decimal number; Python refuses to write more than 4,300

Encoded = tuple[np.ndarray, np.ndarray, tuple[Remark, ...]]
"""Indices, int64 [n]; sorted distinct ids; what is to be told of them."""

MISSING = frozenset(
    [
        *("nan", "NaN", "NAN", "-nan", "null", "Null", "NULL", "(null)", "nil", "none", "None"),
        *("NONE", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaT", "\\N", "undefined"),
    ]
)
TRUTH_VALUES = ("true", "false")  # of a boolean column that was written as text, in lower case
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", re.ASCII)
_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,15})(\.0+)?", re.ASCII)


def first_names(names: Sequence[Any] | np.ndarray) -> str:
    """The first five of several raw ids, for a message: ``'a', 'b', ...``."""
    return ", ".join(repr(str(name)) for name in names[:5]) + ", ..." * (len(names) > 5)


class IdEncoder:
    """Numbers distinct text ids as they come, then renumbers them in sorted order."""

    def __init__(self) -> None:
        self._numbers: defaultdict[str, int] = defaultdict()
        self._numbers.default_factory = self._numbers.__len__
        self._codes: list[np.ndarray] = []

    def add(self, ids: Sequence[str]) -> None:
        self._codes.append(np.fromiter(map(self._numbers.__getitem__, ids), np.int64, len(ids)))

    def finish(self, column: Any, where: Where, *, quotes: bool = True) -> Encoded:
        """See ``encode_names``."""
        codes = np.concatenate(self._codes)
        return encode_names(codes, list(self._numbers), column, where, quotes=quotes)


def encode_column(values: Any, column: Any, where: Where) -> Encoded:
    """Ids of a column in memory: integers, text, whole floats or ``Decimal``s.

    Raises:
        DataError: an id is missing, or of another kind.
    """
    kind = values.dtype.kind if isinstance(values, np.ndarray) and values.ndim == 1 else "O"
    if kind == "f":
        values = _whole_floats(values, column, where)
        kind = "i"
    if kind == "i" or (kind == "u" and values.max() <= np.iinfo(np.int64).max):
        return (*rank_integers(values.astype(np.int64)), ())
    encoder = IdEncoder()
    encoder.add(as_strings(values, column, where))
    return encoder.finish(column, where)


def encode_names(
    codes: np.ndarray, names: list[str], column: Any, where: Where, *, quotes: bool = True
) -> Encoded:
    """Renumber text ids in sorted order, and tell what is odd about them.

    Args:
        codes: integer [n], each row's index into ``names``.
        names: distinct raw ids.
        column, where: for messages.
        quotes: whether quotation marks around an id were taken off where it was read.

    Raises:
        DataError: an id is blank, or all are truth values.
    """
    blank = [number for number, name in enumerate(names) if not name or name.isspace()]
    if blank:
        raise DataError(missing_id(where(int(_rows_of(codes, blank)[0]), column)))
    if names and all(name.lower() in TRUTH_VALUES for name in names):
        raise DataError(truth_values(where(0, column)))
    numbers = _as_integers(names)
    if numbers is not None:
        return (*_renumber(codes, numbers), ())
    whole = _as_whole_numbers(names)
    if whole is not None:
        decimals = [number for number, name in enumerate(names) if "." in name]
        found = _remark(codes, names, decimals, column, where, "decimals", READ_AS_WHOLE)
        return (*_renumber(codes, whole), (found,))
    check_unicode(names, lambda half: where(int(_rows_of(codes, [half])[0]), column))
    remarks = [
        _remark(codes, names, chosen, column, where, kind, text)
        for kind, text, chosen in _odd_names(names, quotes)
        if chosen
    ]
    return (*rank_ids(codes, names), tuple(remarks))


def check_unicode(
    names: Sequence[str] | np.ndarray, place: Callable[[int], str] | None = None
) -> None:
    """Refuse halves of characters, which JSON can escape and which no file can be written with.

    Args:
        names: raw ids.
        place: says where the id of a number is, and so that it is read; None for an argument.

    Raises:
        DataError: one of the names has such a half.
    """
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        half = next(
            n for n, name in enumerate(names) if any("\ud800" <= c <= "\udfff" for c in name)
        )
        what = f"id {names[half]!r} is no Unicode text (half of a surrogate pair)"
        if place is None:
            raise DataError(f"{what}; give it as UTF-8") from None
        raise DataError(f"{place(half)}: {what}; repair the row") from None


def rank_ids(codes: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Renumber ids in sorted order.

    Args:
        codes: integer [n], each row's index into ``names``.
        names: distinct raw ids.

    Returns:
        int64 [n], each row's index into the sorted ids, and these: int64 where every name is an
        integer that fits, in the one way ``str`` writes it, else str objects.
    """
    numbers = _as_integers(names)
    return _renumber(codes, np.array(names, dtype=object) if numbers is None else numbers)


def rank_integers(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices into the sorted distinct ids, int64 [n], and these, int64.

    Args:
        ids: int64 [n], n > 0.
    """
    lowest = int(ids.min())
    span = int(ids.max()) - lowest + 1
    if span <= _TABLE_SLOTS_PER_ROW * len(ids):
        offsets = ids - lowest
        present = np.zeros(span, bool)
        present[offsets] = True
        return (np.cumsum(present) - 1)[offsets], np.flatnonzero(present) + lowest
    order = stable_order(ids)
    ascending = ids[order]
    new = np.append(True, ascending[1:] != ascending[:-1])
    ranks = np.empty(len(ids), np.int64)
    ranks[order] = np.cumsum(new) - 1
    return ranks, ascending[new]


def as_strings(values: Any, column: Any, where: Where) -> list[str]:
    """Ids as strings, refusing what is neither a string nor a whole number.

    Raises:
        DataError: such an id; names its row, counted from 0, and its column.
    """
    ids = values.tolist() if hasattr(values, "tolist") else list(values)
    kinds = set(map(type, ids))
    if kinds == {str}:
        return ids
    if kinds <= {str, int}:
        with suppress(ValueError):  # more digits than Python writes
            return list(map(str, ids))
    return [_as_string(value, row, column, where) for row, value in enumerate(ids)]


def missing_id(place: str) -> str:
    return f"{place}: the id is missing; give every record an id or remove the row"


def truth_values(place: str) -> str:
    return f"{place}: all ids are true or false, as if of another column; name the column of ids"


def _as_string(value: Any, row: int, column: Any, where: Where) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return _digits(int(value), row, column, where)
    if _is_null(value):
        raise DataError(missing_id(where(row, column)))
    is_float = isinstance(value, (float, np.floating))
    if isinstance(value, Decimal):
        if value.is_finite() and value.adjusted() < _LONGEST and value == value.to_integral_value():
            return str(int(value))
    elif is_float and abs(float(value)) <= _largest_of(value):
        if value == value // 1:
            return str(int(value))
    elif is_float and np.isfinite(value):
        raise DataError(f"{where(row, column)}: {_too_large(value, _largest_of(value))}")
    elif isinstance(value, (bytes, bytearray)):
        raise DataError(
            f"{where(row, column)}: id {value!r} is bytes, not text; decode the column, e.g. with "
            ".decode('utf-8')"
        )
    raise DataError(f"{where(row, column)}: {_of_another_kind(value)}")


def _digits(number: int, row: int, column: Any, where: Where) -> str:
    try:
        return str(number)
    except ValueError:  # the interpreter's limit
        raise DataError(
            f"{where(row, column)}: the id has more digits than Python writes; give ids as text"
        ) from None


def _is_null(value: Any) -> bool:
    """Whether a value stands for a missing one: None, NaN, ``pandas.NA``, NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, Decimal):
        return value.is_nan()  # a signalling one refuses to be compared
    return isinstance(value, (float, np.floating)) and bool(value != value)


def _of_another_kind(value: Any) -> str:
    return f"id {value!r} is neither a string nor a whole number; convert the column"


def _largest_of(value: float | np.floating[Any]) -> float:
    return largest_float(value.dtype) if isinstance(value, np.floating) else LARGEST_FLOAT


def _too_large(value: Any, largest: float) -> str:
    bits = {53: 64, 24: 32, 11: 16}[power := int(np.log2(largest))]
    return (
        f"id {float(value)!r} is beyond 2**{power}, where float{bits} merges neighbouring ids; "
        "read the column as integers or text"
    )


def _whole_floats(values: np.ndarray, column: Any, where: Where) -> np.ndarray:
    """int64 of a float column."""
    largest = largest_float(values.dtype)
    values = values.astype(np.float64)
    bad = np.flatnonzero(~(np.abs(values) <= largest) | (values != np.floor(values)))
    if len(bad) == 0:
        return values.astype(np.int64)
    missing = np.flatnonzero(np.isnan(values))
    row = int(missing[0] if len(missing) else bad[0])
    if len(missing):
        raise DataError(missing_id(where(row, column)))
    value = float(values[row])
    if np.isfinite(value) and abs(value) > largest:
        raise DataError(f"{where(row, column)}: {_too_large(value, largest)}")
    raise DataError(f"{where(row, column)}: {_of_another_kind(value)}")


def _renumber(codes: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices into the sorted distinct ``ids``, and these."""
    order = np.argsort(ids, kind="stable")
    ascending = ids[order]
    new = np.append(True, ascending[1:] != ascending[:-1])
    ranks = np.empty(len(ids), np.int64)
    ranks[order] = np.cumsum(new) - 1
    return ranks[codes], ascending[new]


def _as_integers(names: list[str]) -> np.ndarray | None:
    try:
        numbers = list(map(int, names))
        return np.array(numbers, np.int64) if list(map(str, numbers)) == names else None
    except (ValueError, OverflowError):
        return None


def _as_whole_numbers(names: list[str]) -> np.ndarray | None:
    """int64 of ids such as ``90.0``, which a join that left gaps makes of integers."""
    if not (any("." in name for name in names) and all(map(_WHOLE.fullmatch, names))):
        return None
    numbers = [int(name.partition(".")[0]) for name in names]
    return np.array(numbers) if max(map(abs, numbers)) <= LARGEST_FLOAT else None


READ_AS_WHOLE = (
    "ids of {n} records are written as decimals and read as the whole numbers they are: {first} "
    "is {whole}"
)
LIKE_MISSING = (
    "the id {first} reads like a missing one; {n} records have such an id, and each spelling "
    "counts as one id: remove these rows, or name them otherwise if they are meant"
)
WITH_SPACES = (
    "the id {first} has spaces at an end, as {n} records have; they are part of the id: strip the "
    "column if they are not meant"
)
_KEPT_DECIMALS = (
    "the ids of {n} records are decimals, such as {first}, and kept as text because not all are "
    "whole numbers; convert the column if integers are meant"
)
_IN_QUOTES = (
    "the ids of {n} records stand in quotation marks, such as {first}, which are part of the id in "
    ".inter and .tsv; remove the marks, or save the file as .csv, if they are not meant"
)


def _odd_names(names: list[str], quotes: bool) -> list[tuple[str, str, list[int]]]:
    """Kind, text and the numbers of the names it is about."""
    stripped = list(map(str.strip, names))
    missing = [number for number, name in enumerate(stripped) if name in MISSING]
    odd = [("missing", LIKE_MISSING, missing)]
    if stripped != names:
        spaces = [
            n for n, (one, other) in enumerate(zip(names, stripped, strict=True)) if one != other
        ]
        odd.append(("spaces", WITH_SPACES, spaces))
    if "." in names[0] or "." in names[-1] or missing:
        present = [name for name in stripped if name not in MISSING]
        decimals = [number for number, name in enumerate(names) if "." in name]
        if decimals and all(map(_DECIMAL.fullmatch, present)):
            odd.append(("decimals", _KEPT_DECIMALS, decimals))
    if not quotes and all(len(n) > 1 and n[0] == n[-1] == '"' for n in names):
        odd.append(("quotes", _IN_QUOTES, list(range(len(names)))))
    return odd


def _remark(
    codes: np.ndarray,
    names: list[str],
    chosen: list[int],
    column: Any,
    where: Where,
    kind: str,
    text: str,
) -> Remark:
    """Args: chosen: the numbers of the names that the remark is about."""
    rows = _rows_of(codes, chosen)
    first = names[codes[rows[0]]]
    text = text.replace("{first}", repr(first)).replace("{whole}", first.partition(".")[0])
    return Remark((kind, str(column)), len(rows), where(int(rows[0]), column), text)


def _rows_of(codes: np.ndarray, chosen: list[int]) -> np.ndarray:
    """Rows whose name is among the ``chosen`` numbers."""
    return np.flatnonzero(np.isin(codes, chosen))
