"""Tables in memory beyond plain data frames, which test_readers.py has."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pytest

from pdrec_fast.data import Interactions
from pdrec_fast.errors import DataError

pyarrow = pytest.importorskip("pyarrow")
pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")

COLUMNS = {"user_id": [1, 1, 2], "item_id": ["b", "a", "b"], "timestamp": [3, 2, 1], "x": [0, 0, 0]}
FAR = [dt.datetime(2020, 1, 2), dt.datetime(2020, 1, 1), dt.datetime(9999, 12, 31)]
FAR_ONE_USER = {"user_id": [1, 1, 1], "item_id": ["b", "a", "c"], "timestamp": FAR}


def items(data):
    return data.item_ids[data.items].tolist()


class Capsule:
    """Anything that hands over an Arrow stream."""

    def __init__(self, table):
        self.__arrow_c_stream__ = table.__arrow_c_stream__


@pytest.mark.parametrize(
    "make",
    [
        dict,
        pandas.DataFrame,
        polars.DataFrame,
        polars.LazyFrame,
        pyarrow.table,
        lambda columns: pyarrow.table(columns).to_reader(),
        lambda columns: Capsule(pyarrow.table(columns)),
        lambda columns: {name: np.array(values) for name, values in columns.items()},
        lambda columns: {name: pyarrow.array(values) for name, values in columns.items()},
        lambda columns: {name: polars.Series(values) for name, values in columns.items()},
    ],
)
def test_tables_of_every_kind(make):
    data = Interactions.from_frame(make(COLUMNS))
    expected = Interactions.from_arrays(*list(COLUMNS.values())[:3])
    assert data.fingerprint() == expected.fingerprint()
    swapped = Interactions.from_frame(make(COLUMNS), user="item_id", item=0)
    assert swapped.user_ids.tolist() == ["a", "b"]
    with pytest.raises(DataError, match="no column 'who'"):
        Interactions.from_frame(make(COLUMNS), user="who")


def test_duckdb_relations():
    duckdb = pytest.importorskip("duckdb")
    rows = "(1::hugeint, 'b', timestamp '9999-12-31'), (1, 'a', timestamp '2020-01-01')"
    relation = duckdb.sql(f"select * from (values {rows}) t(user_id, item_id, timestamp)")
    data = Interactions.from_frame(relation)
    assert (data.user_ids.tolist(), items(data)) == ([1], ["a", "b"])
    assert data.timestamps.tolist() == [1577836800, 253402214400]


@pytest.mark.parametrize("labels", [range(3), [2, 0, 1], ["u", "i", "t"]])
def test_columns_by_number(labels):
    """The label where columns are numbered, else the position."""
    labels = list(labels)
    frame = pandas.DataFrame(dict(zip(labels, list(COLUMNS.values())[:3], strict=True)))
    places = labels if isinstance(labels[0], int) else range(3)
    names = dict(zip(("user", "item", "timestamp"), places, strict=True))
    assert items(Interactions.from_frame(frame, **names)) == ["a", "b", "b"]
    with pytest.raises(DataError, match="no column at position 3 for user="):
        Interactions.from_frame(frame, **{**names, "user": 3})


@pytest.mark.parametrize(
    "times",
    [
        pandas.Series(FAR),
        pandas.Series(FAR, dtype=object),
        pandas.Series(FAR).dt.tz_localize("UTC"),
        pandas.Series(FAR, dtype="datetime64[s]"),
        pandas.Series(FAR, dtype=pandas.ArrowDtype(pyarrow.timestamp("ms", "UTC"))),
        polars.Series(FAR, dtype=polars.Datetime("ms", "UTC")),
        polars.Series([moment.date() for moment in FAR]),
        pyarrow.array(FAR, pyarrow.timestamp("s", "Asia/Tokyo")),
        pyarrow.array(FAR, pyarrow.date64()),
        [moment.isoformat() for moment in FAR],
    ],
)
def test_datetimes_of_every_kind_and_range(times):
    data = Interactions.from_frame({**FAR_ONE_USER, "timestamp": times})
    assert items(data) == ["a", "b", "c"]
    assert data.timestamps.tolist() == [1577836800, 1577923200, 253402214400]


def test_zones_are_kept_apart():
    times = pandas.Series(pandas.to_datetime(["2020-01-01T09", "2020-01-01T10"]))
    zoned = times.dt.tz_localize("Asia/Tokyo")
    frame = pandas.DataFrame({**{k: v[:2] for k, v in COLUMNS.items()}, "timestamp": zoned})
    expected = [1577836800 + 3600, 1577836800]
    assert sorted(Interactions.from_frame(frame).timestamps.tolist()) == expected[::-1]
    assert sorted(Interactions.from_frame(polars.DataFrame(frame)).timestamps) == expected[::-1]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pyarrow.array([3, 250], pyarrow.uint8()), [3, 250]),
        (pyarrow.array([3, 2**63], pyarrow.uint64()), ["3", str(2**63)]),
        (pyarrow.array(["u", "v"], pyarrow.large_string()), ["u", "v"]),
        (pyarrow.array(["u", "v"], pyarrow.string_view()), ["u", "v"]),
        (pyarrow.array(["4", "2"]).dictionary_encode(), [2, 4]),
        (pyarrow.array([4, 2]).dictionary_encode(), [2, 4]),
        (pyarrow.array([Decimal("7.00"), Decimal("-1.00")]), [-1, 7]),
        (pyarrow.array([7.0, -1.0]), [-1, 7]),
        (polars.Series([7, -1], dtype=polars.Int128), [-1, 7]),
        (polars.Series(["u", "v"], dtype=polars.Enum(["v", "u"])), ["u", "v"]),
        (pandas.Series(["u", "v"], dtype="category"), ["u", "v"]),
        (pandas.Series([7, -1], dtype="Int8"), [-1, 7]),
        (np.array(["u", "v"]), ["u", "v"]),
        (np.array([7.0, -1.0], np.float32), [-1, 7]),
        (np.array([7.0, "v", Decimal(3)], dtype=object)[:2], ["7", "v"]),
    ],
)
def test_ids_of_every_kind(ids, expected):
    frame = {"user_id": ids, "item_id": [1, 2], "timestamp": [1, 2]}
    assert Interactions.from_frame(frame).user_ids.tolist() == expected
    if isinstance(ids, (pyarrow.Array, pyarrow.ChunkedArray)):
        table = pyarrow.table(
            {name: pyarrow.array(v) if isinstance(v, list) else v for name, v in frame.items()}
        )
        assert Interactions.from_frame(table).user_ids.tolist() == expected


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("user_id", pyarrow.array(["u", None]).dictionary_encode(), "the id is missing"),
        ("user_id", pyarrow.DictionaryArray.from_arrays([0, 1], ["u", None]), "the id is missing"),
        ("user_id", pyarrow.array([1, None]), "the id is missing"),
        ("user_id", pyarrow.array([1.0, 2.5]), r"id 2\.5 is neither"),
        ("timestamp", pyarrow.array([1, None], pyarrow.timestamp("s")), "timestamp is missing"),
        ("timestamp", pyarrow.array([dt.time(1), dt.time(2)]), "timestamp"),
    ],
)
def test_unusable_values_of_arrow_tables(name, values, message):
    columns = {"user_id": [1, 1], "item_id": [1, 2], "timestamp": [1, 2], name: values}
    with pytest.raises(DataError, match=rf"the table, row [01] .*column '{name}': .*{message}"):
        Interactions.from_frame(pyarrow.table(columns))


def test_tables_that_cannot_be_read():
    with pytest.raises(DataError, match="bytes, not text; decode"):
        Interactions.from_frame(pyarrow.table({"user_id": [b"u"], "item_id": [1]}))
    with pytest.raises(DataError, match="the table: no records"):
        Interactions.from_frame(pyarrow.table(COLUMNS).slice(0, 0))
    with pytest.raises(
        ValueError, match=r"equally long, got lengths \{'user_id': 1, 'item_id': 2\}"
    ):
        Interactions.from_frame({"user_id": [1], "item_id": [1, 2]})
    with pytest.raises(DataError, match="column 'item_id' occurs 2 times"):
        Interactions.from_frame(
            pandas.DataFrame([[1, 2, 3]], columns=["user_id", "item_id", "item_id"])
        )


def test_parquet_with_columns_of_one_name(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table([[1, 1], ["b", "a"], [2, 1]], names=["user_id", "x", "x"])
    parquet.write_table(table, tmp_path / "d.parquet")
    data = Interactions.from_file(tmp_path / "d.parquet", item=1, timestamp=2)
    assert items(data) == ["a", "b"]


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_narrow_floats_beyond_which_neighbours_are_one(kind):
    """``float32(2**24 + 1)`` is 2**24, and unix seconds in float32 are minutes apart."""
    largest = 2 ** (np.finfo(kind).nmant + 1)
    wide = np.array([1, largest + 4, 2], kind)
    assert Interactions.from_arrays(np.array([1, largest], kind), [1, 2]).n_users == 2
    with pytest.raises(DataError, match=rf"row 1 .*'users': id {largest + 4}.0 is beyond"):
        Interactions.from_arrays(wide, [1, 2, 3])
    with pytest.raises(DataError, match=rf"row 1 .*{largest + 4}.0 is too large for float"):
        Interactions.from_arrays([1, 1, 1], [1, 2, 3], wide)
    with pytest.raises(DataError, match=rf"row 1 .*'user_id'.*float{kind().itemsize * 8} merges"):
        Interactions.from_frame({"user_id": list(wide), "item_id": [1, 2, 3]})


def test_masked_values_are_missing_ones():
    some = np.ma.array([1, 2, 3], mask=[False, True, False])
    ids = np.arange(3)
    for columns, text in (
        ((some, ids), "row 1 .*'users': the id is missing"),
        ((ids, some), "row 1 .*'items': the id is missing"),
        (([1, 1, 1], ids, some), "row 1 .*'timestamps': timestamp 'None'"),
    ):
        with pytest.raises(DataError, match=text):
            Interactions.from_arrays(*columns)
    data = Interactions.from_arrays(np.ma.array(ids), ids, np.ma.array([3.0, 2.0, 1.0]))
    assert data.user_ids.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="item 1 has features that are not finite"):
        data.with_item_features(ids, np.ma.array([[1], [2], [3]], mask=[[0], [1], [0]]))


@pytest.mark.parametrize(
    ("users", "text"),
    [
        ({"a", "b"}, "users is a set, which has no order"),
        ({"a": 1, "b": 2}, "users is a dict: give a list"),
        ("ab", "users must be a list or an array of rows, got 'ab'"),
        (np.array("a"), "users must be a list or an array of rows"),
        (iter("ab"), "users must be a list or an array of rows"),
    ],
)
def test_what_is_no_column(users, text):
    with pytest.raises(TypeError, match=text):
        Interactions.from_arrays(users, ["x", "y"])
