"""Whatever a table holds: it is read alike from every library, or refused with the row."""

import datetime
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdrec_fast.data import Interactions
from pdrec_fast.errors import DataError

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")

IDS = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(),
    "text": st.text(max_size=4),
    "digits": st.integers(0, 99).map(str),
    "any": st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
}
TIMES = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(),
    "datetime": st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)),
    "dates": st.dates().map(str),
    "text": st.text("0123456789-:T.Z+e ", max_size=12),
}
LIBRARIES = {
    "pandas": lambda columns: pandas.DataFrame(columns, dtype=object),
    "polars": polars.DataFrame,
    "polars, lazy": polars.LazyFrame,
    "pyarrow": pyarrow.table,
}


@st.composite
def tables(draw):
    n_rows = draw(st.integers(1, 4))
    return {
        name: draw(
            st.lists(kinds[draw(st.sampled_from(sorted(kinds)))], min_size=n_rows, max_size=n_rows)
        )
        for name, kinds in (("user_id", IDS), ("item_id", IDS), ("timestamp", TIMES))
    }


def outcome(read, *arguments):
    """What was read, as plain values; None where it was refused, in one line that names the row."""
    refusal = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = read(*arguments)
        except DataError as error:
            refusal = str(error)
    if refusal:
        assert refusal.isprintable()
        assert "row " in refusal
        return None
    names = [data.user_ids[data.record_users].tolist(), data.item_ids[data.items].tolist()]
    return [*names, data.timestamps.tolist()]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(tables())
def test_tables_are_read_alike_or_refused(columns):
    expected = outcome(Interactions.from_frame, columns)
    n_rows = len(columns["user_id"])
    assert expected is None or all(len(values) == n_rows for values in expected)
    assert outcome(Interactions.from_arrays, *columns.values()) == expected
    for name, make in LIBRARIES.items():
        try:
            frame = make(columns)
        except Exception:
            continue  # a library that holds no such values together
        found = outcome(Interactions.from_frame, frame)
        assert name != "pandas" or found == expected
        assert None in (found, expected) or found == expected, name


ANY = (
    st.none()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(), max_size=3)
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(
        [
            "min_user",
            "min_item",
            "repeats",
            "since",
            "until",
            "limit_users",
            "user_index",
            "find_items",
            "histories",
        ]
    ),
    ANY,
)
def test_any_argument_is_taken_or_refused(name, value):
    def call():
        if name in ("user_index", "find_items", "histories"):
            return getattr(Interactions.from_arrays([1, 2], [3, 4], [5, 6]), name)(value)
        return Interactions.from_arrays([1, 2], [3, 4], [5, 6], **{name: value})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            told = repr(call())
        except (ValueError, TypeError) as error:
            told = str(error)
    assert told.strip()
