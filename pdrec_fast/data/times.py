"""Times of every kind: as float64, and where that would merge some, exactly beside.

A time without a zone is one of UTC. Numbers keep their unit, whatever it is; what is a date becomes
unix seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

LARGEST_FLOAT = 2.0**53
"""Beyond, neighbouring integers are one float64."""

SHORT_NUMBER = 16
"""Characters of a number that float64 keeps apart from its neighbours: 15 digits and a point."""

PARTS = 10**18
"""The fraction of a time is an integer number of 1 / PARTS: down to the attoseconds of NumPy."""

_INT64 = np.iinfo(np.int64)
_UNIX_EPOCH = date(1970, 1, 1).toordinal()
_DAY = 86_400
_FIRST_UNIX_TIME = 1e8  # smaller numbers, in 1973, are more likely counters than unix seconds
_PER_SECOND = ((1e11, 1), (1e14, 10**3), (1e17, 10**6), (math.inf, 10**9))
_TICKS = {unit: 1000**power for power, unit in enumerate(["s", "ms", "us", "ns", "ps", "fs", "as"])}
_ISO = re.compile(
    r"\s*(\d{4})-?(\d\d)-?(\d\d)"
    r"(?:[T ](\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d{1,18}))?)?)?)?"
    r"\s*(Z|UTC|[+-]\d\d(?::?\d\d)?)?\s*",
    re.IGNORECASE | re.ASCII,
)
_DATE = re.compile(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")


class BadTimeError(Exception):
    """A time that cannot be used: its row (from 0) and why; readers turn it into a DataError."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row


@dataclass(frozen=True, eq=False)
class Times:
    """Times in the order of their source.

    Attributes:
        values: float64 [n], finite.
        whole, part: int64 [n], where ``values`` may merge times that differ: the times are exactly
            ``whole + part / PARTS``. ``part`` is None where they are integers.
        dated: whether they are unix seconds because dates were read.
    """

    values: np.ndarray
    whole: np.ndarray | None = None
    part: np.ndarray | None = None
    dated: bool = False

    @property
    def keys(self) -> np.ndarray:
        """Float64 or int64 [n] in the order of the times, with ``part`` after it."""
        return self.values if self.whole is None else self.whole

    def __getitem__(self, rows: np.ndarray) -> Times:
        whole = None if self.whole is None else self.whole[rows]
        return Times(
            self.values[rows], whole, None if self.part is None else self.part[rows], self.dated
        )

    def before(self, moment: Moment) -> np.ndarray:
        """bool [n]: whether a time is earlier; the moment has the unit of the times."""
        if self.whole is None:
            return self.values < moment.value
        if not _INT64.min <= moment.whole <= _INT64.max:
            return np.full(len(self.values), moment.whole > 0)
        if self.part is None:
            return self.whole < moment.whole + (moment.part > 0)
        return (self.whole < moment.whole) | (
            (self.whole == moment.whole) & (self.part < moment.part)
        )

    def same_as_before(self) -> np.ndarray:
        """bool [n - 1]: whether a time equals the one before it."""
        same = self.keys[1:] == self.keys[:-1]
        return same if self.part is None else same & (self.part[1:] == self.part[:-1])


class Moment(NamedTuple):
    """One time that an argument gives: ``whole + part / PARTS``, unix seconds if ``dated``."""

    whole: int
    part: int
    value: float
    dated: bool

    @property
    def plain(self) -> float | str:
        """As a JSON value: the number, or ISO 8601 text."""
        if not self.dated:
            return self.value
        days, seconds = divmod(self.whole, _DAY)
        day = date.fromordinal(days + _UNIX_EPOCH)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        fraction = f".{self.part:018}".rstrip("0") if self.part else ""
        return f"{day.isoformat()}T{clock}{fraction}Z"

    def in_unit_of(self, values: np.ndarray, dated: bool, words: str) -> Moment:
        """A date in the unit of timestamps, told from their size; a number stays as it is.

        Args:
            values: the timestamps, float64 [n].
            dated: they are known to be unix seconds.
            words: the argument and its value, for the message.

        Raises:
            ValueError: the timestamps are no unix times.
        """
        if not self.dated or dated or len(values) == 0:
            return self
        size = float(np.median(np.abs(values)))
        if np.abs(values).max() < _FIRST_UNIX_TIME <= abs(self.whole):
            raise ValueError(
                f"{words} is a date, but the timestamps, {values.min()} to {values.max()}, are "
                "no unix times; give a number in their unit"
            )
        factor = next(factor for end, factor in _PER_SECOND if size < end)
        carry, part = divmod(self.part * factor, PARTS)
        whole = self.whole * factor + carry
        return Moment(whole, part, whole + part / PARTS, True)


def as_moment(given: Any, argument: str) -> Moment:
    """What an argument says: a number in the unit of the timestamps, or a date or time (ISO 8601
    text, ``datetime``, ``date``, pandas ``Timestamp``, ``datetime64``).

    Raises:
        ValueError: it is none of these; names the argument and its value.
    """
    try:
        is_iso = isinstance(given, str) and _is_iso_date(given)
        if is_iso or _is_date(given):
            whole, part = _split_iso(given) if is_iso else _split_date(given)
            return Moment(whole, part, whole + part / PARTS, True)
        return Moment(*_split_number(given), float(given), False)
    except (ValueError, TypeError, OverflowError, InvalidOperation):
        raise ValueError(
            f"{argument}={given!r} is neither a number, in the unit of the timestamps, nor a date "
            "or time such as 2020-09-14 or 2020-09-14T12:00:00+02:00"
        ) from None


def times_of(values: Any) -> Times:
    """Times of a column in memory: numbers, ``datetime64``, or objects (``datetime``, ``date``,
    ``Timestamp``, ISO 8601 text, ``Decimal``).

    Args:
        values: array or sequence of n > 0.

    Raises:
        BadTimeError: one that cannot be used.
    """
    kind = values.dtype.kind if isinstance(values, np.ndarray) and values.ndim == 1 else "O"
    if kind == "M":
        return _of_datetime64(values)
    if kind in "iu":
        return _of_integers(values)
    if kind == "f":
        return _of_floats(values)
    objects = list(values)
    return TextTimes().read(objects) if isinstance(objects[0], str) else _of_objects(objects)


class TextTimes:
    """Reads a column of text in chunks: all numbers, or all dates, as the first value says."""

    def __init__(self) -> None:
        self._dated: bool | None = None
        self._n_rows = 0

    def read(self, texts: Sequence[str]) -> Times:
        """Times of the next chunk.

        Raises:
            BadTimeError: one that cannot be used; its row counts from the first chunk on.
        """
        try:
            if self._dated is None:
                self._dated = _is_iso_date(texts[0])
            found = _of_dates(texts, _split_iso) if self._dated else _of_numbers(texts)
        except BadTimeError as error:
            text = str(texts[error.row])
            reason = str(error)
            if self._dated and not _is_iso_date(text):
                reason = f"timestamp '{text}' is no date (ISO 8601), but the rows before have dates"
            elif not self._dated and _is_iso_date(text):
                reason = f"timestamp '{text}' is a date, but the rows before have numbers"
            raise BadTimeError(self._n_rows + error.row, reason) from None
        self._n_rows += len(texts)
        return found


def join_times(chunks: Sequence[Times]) -> Times:
    """The times of chunks, one after the other."""
    values = np.concatenate([chunk.values for chunk in chunks])
    dated = chunks[0].dated
    if all(chunk.whole is None for chunk in chunks):
        return Times(values, dated=dated)
    pairs = [_exact(chunk) for chunk in chunks]
    whole, part = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    return Times(values, whole, part if part.any() else None, dated)


def exact_times(whole: np.ndarray, part: np.ndarray) -> Times:
    """Unix seconds ``whole + part / PARTS``."""
    values = whole + part / PARTS
    return Times(values, whole, part, dated=True) if part.any() else Times(values, dated=True)


def _exact(times: Times) -> tuple[np.ndarray, np.ndarray]:
    if times.whole is not None:
        return times.whole, np.zeros_like(times.whole) if times.part is None else times.part
    if (times.values == np.floor(times.values)).all():
        return times.values.astype(np.int64), np.zeros(len(times.values), np.int64)
    # Short text is the shortest that gives its float64.
    return _pairs(map(_split_number, map(repr, times.values.tolist())), len(times.values))


def _of_datetime64(values: np.ndarray) -> Times:
    missing = np.flatnonzero(np.isnat(values))
    if len(missing):
        raise BadTimeError(int(missing[0]), _bad(values[missing[0]]))
    unit, count = np.datetime_data(values.dtype)
    if unit == "s" or unit not in _TICKS:  # years to minutes
        seconds = values.astype("datetime64[s]")
        overflown = np.flatnonzero(seconds.astype(values.dtype) != values)
        if len(overflown):
            raise BadTimeError(int(overflown[0]), _too_large(values[overflown[0]]))
        return _of_integers(seconds.view(np.int64), dated=True)
    if count > 1:  # such as datetime64[10ms]
        values = values.astype(f"datetime64[{unit}]")
    per_second = _TICKS[unit]
    ticks = values.view(np.int64)
    whole = ticks // per_second
    part = (ticks - whole * per_second) * (PARTS // per_second)
    if not part.any():
        return Times(ticks / per_second, dated=True)
    return Times(ticks / per_second, whole, part, dated=True)


def _of_integers(values: np.ndarray, dated: bool = False) -> Times:
    floats = values.astype(np.float64)
    large = np.abs(floats) > LARGEST_FLOAT
    if not large.any():
        return Times(floats, dated=dated)
    if values.dtype.kind == "u" and (values > _INT64.max).any():
        row = int((values > _INT64.max).argmax())
        raise BadTimeError(row, _too_large(values[row]))
    return Times(floats, values.astype(np.int64), dated=dated)


def largest_float(kind: np.dtype[Any]) -> float:
    """The whole number beyond which neighbours are one number of a float type, at most those of
    float64: 2**53, 2**24 of float32, 2**11 of float16."""
    return min(2.0 ** (np.finfo(kind).nmant + 1), LARGEST_FLOAT)


def _of_floats(given: np.ndarray) -> Times:
    values = given.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise BadTimeError(int(bad[0]), _bad(values[bad[0]]))
    large = np.flatnonzero(np.abs(values) > largest_float(given.dtype))
    if len(large) and given.dtype.itemsize < values.dtype.itemsize:
        raise BadTimeError(
            int(large[0]),
            f"timestamp {values[large[0]]} is too large for {given.dtype}, where times that differ "
            "become one; read the column as float64 or integers",
        )
    if len(large):
        raise BadTimeError(int(large[0]), _too_large(values[large[0]]))
    return Times(values)


def _of_numbers(numbers: Sequence[Any]) -> Times:
    """Of text or objects that are numbers."""
    try:
        values = np.fromiter(map(float, numbers), np.float64, len(numbers))
    except (ValueError, TypeError, OverflowError):
        values = np.array([_float_or_nan(number) for number in numbers])
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise BadTimeError(int(bad[0]), _bad(numbers[bad[0]]))
    large = np.flatnonzero(np.abs(values) > LARGEST_FLOAT)
    for row in map(int, large):
        if not _is_int64(numbers[row]):
            raise BadTimeError(row, _too_large(numbers[row]))
    if len(large) or _may_merge(numbers, values):
        return Times(values, *_pairs(map(_split_number, numbers), len(numbers)))
    return Times(values)


def _is_int64(number: Any) -> bool:
    """Whether it is an integer beyond float64's, and within int64."""
    try:
        return not isinstance(number, float) and -(2**63) <= int(str(number)) < 2**63
    except ValueError:
        return False


def _may_merge(numbers: Sequence[Any], values: np.ndarray) -> bool:
    """Whether float64 may make numbers equal that differ: fractions of more than 15 digits."""
    if all(isinstance(number, (int, float)) for number in numbers):
        return False
    longest = max(map(len, map(str, numbers)))
    return longest > SHORT_NUMBER or not (values == np.floor(values)).all()


def _of_objects(objects: Sequence[Any]) -> Times:
    dated = _is_date(objects[0])
    for row, value in enumerate(objects):
        is_number = isinstance(value, (Real, Decimal)) and not isinstance(value, (bool, np.bool_))
        if not (is_number or _is_date(value)):
            raise BadTimeError(row, _bad(value))
        if _is_date(value) != dated:
            kinds = ("number", "dates") if dated else ("date", "numbers")
            raise BadTimeError(
                row, f"timestamp {value!r} is a {kinds[0]}, but the rows before have {kinds[1]}"
            )
    return _of_dates(objects, _split_date) if dated else _of_numbers(objects)


def _of_dates(dates: Sequence[Any], split: Any) -> Times:
    try:
        return exact_times(*_pairs(map(split, dates), len(dates)))
    except (ValueError, TypeError, OverflowError):
        for row, value in enumerate(dates):
            try:
                _pairs(map(split, [value]), 1)
            except (ValueError, TypeError, OverflowError):
                raise BadTimeError(row, _bad(value)) from None
        raise


def _pairs(pairs: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    found = np.fromiter(pairs, np.dtype((np.int64, 2)), n)
    return found[:, 0].copy(), found[:, 1].copy()


def _float_or_nan(value: Any) -> float:
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        return math.nan


def _split_number(value: Any) -> tuple[int, int]:
    """``whole`` and ``part`` of a number or of its text."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError
    if isinstance(value, str):
        value = Decimal(value)
    elif isinstance(value, np.generic):
        value = value.item()
    whole = math.floor(value)  # ValueError or OverflowError where it is not finite
    numerator, denominator = (value - whole).as_integer_ratio()
    return whole, numerator * PARTS // denominator


def _is_date(value: Any) -> bool:
    return isinstance(value, (date, np.datetime64))


def _split_date(value: Any) -> tuple[int, int]:
    """``whole`` and ``part`` of a ``datetime``, ``date``, ``Timestamp`` or ``datetime64``."""
    if value != value:  # NaT
        raise ValueError
    if isinstance(value, np.datetime64):
        whole, part = _exact(_of_datetime64(np.array([value])))
        return int(whole[0]), int(part[0])
    days = value.toordinal() - _UNIX_EPOCH
    if not isinstance(value, datetime):
        return days * _DAY, 0
    seconds = value.hour * 3600 + value.minute * 60 + value.second
    # A pandas Timestamp has nanoseconds beside its microseconds.
    nanoseconds = value.microsecond * 1000 + getattr(value, "nanosecond", 0)
    offset = value.utcoffset() or timedelta(0)
    whole = days * _DAY + seconds - offset.days * _DAY - offset.seconds
    carry, nanoseconds = divmod(nanoseconds - offset.microseconds * 1000, 10**9)
    return whole + carry, nanoseconds * (PARTS // 10**9)


def _is_iso_date(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return _ISO.fullmatch(text) is not None
    except OverflowError:  # JSON's whole numbers have any length
        pass
    return False


def _split_iso(text: str) -> tuple[int, int]:
    """``whole`` and ``part`` of ISO 8601 text."""
    match = _ISO.fullmatch(text)
    if match is None:
        raise ValueError
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    whole = _seconds_of_day(year, month, day)
    if hour is not None:
        clock = int(hour), int(minute or 0), int(second or 0)
        if clock[0] > 23 or clock[1] > 59 or clock[2] > 59:
            raise ValueError
        whole += clock[0] * 3600 + clock[1] * 60 + clock[2]
    if zone is not None:
        whole -= _offset(zone)
    return whole, int(fraction.ljust(18, "0")) if fraction else 0


@lru_cache(maxsize=1 << 16)
def _seconds_of_day(year: str, month: str, day: str) -> int:
    return (date(int(year), int(month), int(day)).toordinal() - _UNIX_EPOCH) * _DAY


def _offset(zone: str) -> int:
    """Seconds east of Greenwich."""
    if zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "")
    seconds = int(digits[:2]) * 3600 + int(digits[2:] or 0) * 60
    return seconds if zone[0] == "+" else -seconds


def _bad(value: Any) -> str:
    if _ISO.fullmatch(str(value)):
        return f"timestamp '{value}': there is no such day or time; repair or remove the row"
    advice = "timestamps are numbers such as unix seconds, or dates: repair or remove the row"
    if _DATE.match(str(value)):
        advice = "it looks like a date: write it as ISO 8601, such as 2020-11-26 15:26:09+01:00"
    return f"timestamp '{value}' is not a finite number; {advice}"


def _too_large(value: Any) -> str:
    return (
        f"timestamp {value} is too large to keep its order; give integers below 2**63 or divide "
        "the column, e.g. nanoseconds to seconds"
    )
