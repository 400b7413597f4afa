import datetime as dt
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdrec_fast.data import Interactions, global_time_split
from pdrec_fast.data.times import PARTS, BadTimeError, TextTimes, as_moment, join_times, times_of
from pdrec_fast.errors import DataError

JANUARY = 1_577_836_800  # 2020-01-01
TOKYO = dt.timezone(dt.timedelta(hours=9))


def order(times):
    """Positions in the order of the exact times."""
    keys = [key for key in (times.part, times.keys) if key is not None]
    return np.lexsort(keys).tolist()


@pytest.mark.parametrize("unit", ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps"])
def test_datetime64_of_every_unit(unit):
    moments = np.array([2, 1, 3], f"datetime64[{unit}]")
    times = times_of(moments)
    assert times.dated
    assert order(times) == [1, 0, 2]
    assert times.values == pytest.approx((moments - np.datetime64(0, "s")) / np.timedelta64(1, "s"))


def test_datetime64_of_several_units():
    assert times_of(np.array([20, 10], "datetime64[50ms]")).values.tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    "moments",
    [
        np.array(["2020-01-01", "9999-12-31"], "datetime64[us]"),
        [dt.datetime(2020, 1, 1), dt.datetime(9999, 12, 31)],
        [dt.date(2020, 1, 1), dt.datetime(9999, 12, 31, 9, tzinfo=TOKYO)],
        ["2020-01-01", "9999-12-31T09:00:00.000+09:00"],
        ["20200101T000000Z", "9999-12-30 19:30-0430"],
        [np.datetime64("2020-01-01"), np.datetime64("9999-12-31")],
    ],
)
def test_dates_of_every_kind_and_range(moments):
    times = times_of(moments)
    assert times.values.tolist() == [JANUARY, 253402214400]
    assert times.dated


@pytest.mark.parametrize(
    "moments",
    [
        np.array([1600000000000000002, 1600000000000000001]),
        [1600000000000000002, 1600000000000000001],
        ["1600000000000000002", "1600000000000000001"],
        [Decimal("1600000000.000000002"), Decimal("1600000000.000000001")],
        [Fraction(3, 10**9) + 10**9, Fraction(2, 10**9) + 10**9],
        ["1600000000.000000002", "1600000000.000000001"],
        np.array([1600000000000000002, 1600000000000000001], "datetime64[ns]"),
        ["2020-01-01T00:00:00.000000002", "2020-01-01T00:00:00.000000001"],
        ["-1600000000.000000001", "-1600000000.000000002"],
    ],
)
def test_a_nanosecond_decides(moments):
    times = times_of(moments)
    assert times.values[0] == times.values[1]
    assert order(times) == [1, 0]
    assert not times.same_as_before().any()
    assert times.before(times_as_moment(times, 0)).tolist() == [False, True]
    data = Interactions.from_arrays([1, 1], ["later", "earlier"], moments)
    assert data.item_ids[data.items].tolist() == ["earlier", "later"]


def times_as_moment(times, row):
    whole, part = int(times.whole[row]), 0 if times.part is None else int(times.part[row])
    return as_moment(0, "x")._replace(whole=whole, part=part)


def test_nanoseconds_that_are_no_copies():
    # A warning would fail: the two differ, though their float64 is one.
    times = [1600000000000000002, 1600000000000000001]
    assert Interactions.from_arrays([1, 1], ["a", "a"], times).n_records == 2


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ([1, None], 1),
        ([1, True], 1),
        ([1, dt.date(2020, 1, 1)], 1),
        ([dt.date(2020, 1, 1), 1], 1),
        ([1, "2"], 1),
        ([1, float("nan")], 1),
        ([dt.date(2020, 1, 1), np.datetime64("NaT")], 1),
        (np.array(["2020", "NaT"], "datetime64[D]"), 1),
        (np.array([1, 2**62], "datetime64[Y]"), 1),
        (np.array([5], "timedelta64[s]"), 0),
        (np.array([1, 2**63], np.uint64), 1),
        (np.array([1, 2.0**60]), 1),
        ([1, 2.0**60], 1),
        (np.array([True]), 0),
        ([1 + 2j], 0),
    ],
)
def test_what_is_no_time(values, row):
    with pytest.raises(BadTimeError) as error:
        times_of(values)
    assert error.value.row == row


def test_chunks_of_text_join_exactly():
    chunks = [["5", "7"], ["1600000000.1", "0.25"], ["1600000000.100000001"], ["2e3"]]
    texts = TextTimes()
    times = join_times([texts.read(chunk) for chunk in chunks])
    expected = [Fraction(Decimal(text)) for chunk in chunks for text in chunk]
    found = [
        Fraction(int(w)) + Fraction(int(p), PARTS)
        for w, p in zip(times.whole, times.part, strict=True)
    ]
    assert found == expected
    with pytest.raises(BadTimeError) as error:
        texts.read(["1", "x"])
    assert error.value.row == 7


@given(
    st.datetimes(min_value=dt.datetime(1, 1, 3), max_value=dt.datetime(9999, 12, 29)),
    st.integers(-1439, 1439),
)
def test_iso_text_is_what_python_reads(moment, minutes):
    moment = moment.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    expected = Fraction(
        (moment - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)) // dt.timedelta(microseconds=1),
        10**6,
    )
    for given_ in (moment, moment.isoformat(), moment.isoformat(" ")):
        found = as_moment(given_, "since")
        assert Fraction(found.whole) + Fraction(found.part, PARTS) == expected


@pytest.mark.parametrize(
    "given_", ["2020-09-14", "2020-09-14T02:00+02:00", "2020-09-14T00:00:00.5Z"]
)
def test_a_moment_as_a_plain_value_is_the_same(given_):
    moment = as_moment(given_, "since")
    assert moment == as_moment(moment.plain, "since")
    assert as_moment(2300, "since").plain == as_moment("2300", "since").plain == 2300.0


@pytest.mark.parametrize(
    "given_", ["soon", "", None, True, float("nan"), "inf", [1], "2020-13-01", np.datetime64("NaT")]
)
def test_what_is_no_moment(given_):
    with pytest.raises(
        ValueError, match=r"since=.* is neither a number, .* nor a date or time such as"
    ):
        as_moment(given_, "since")


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("kind", ["text", "date", "datetime64", "pandas"])
def test_splits_at_dates_take_the_unit_of_the_timestamps(factor, kind):
    days = np.array([JANUARY - 5, JANUARY, JANUARY + 5, JANUARY + 86_400]) * factor
    data = Interactions.from_arrays([1] * 4, [1, 2, 3, 4], days)
    limits = ["2020-01-01", "2020-01-02"]
    if kind == "date":
        limits = [dt.date.fromisoformat(limit) for limit in limits]
    elif kind == "datetime64":
        limits = [np.datetime64(limit) for limit in limits]
    elif kind == "pandas":
        limits = [pytest.importorskip("pandas").Timestamp(limit) for limit in limits]
    split = global_time_split(data, *limits)
    assert split.train.n_records == 1
    assert (split.valid.targets.tolist(), split.test.targets.tolist()) == ([1], [3])
    assert f"({JANUARY * factor})" in str(split.report)
    number = global_time_split(data, JANUARY * factor, (JANUARY + 86_400) * factor)
    assert number.train.fingerprint() == split.train.fingerprint()


def test_dates_where_timestamps_are_no_unix_times():
    data = Interactions.from_arrays([1] * 3, [1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match=r"valid_from=2020-01-01 is a date, but .* 1\.0 to 3\.0"):
        global_time_split(data, "2020-01-01", "2020-01-02")
    times = np.array(["2020-01-01", "2020-01-02"], "datetime64[D]")
    data = Interactions.from_arrays([1, 1], [1, 2], times)
    with pytest.raises(DataError, match=r"no validation case .*=1999-01-01 \(915148800\)"):
        global_time_split(data, "1999-01-01", "1999-01-02")
