import builtins
import gzip
import re
import sys
import warnings
from decimal import Decimal

import numpy as np
import pytest

from pdrec_fast.data import Interactions
from pdrec_fast.data.text import ROWS_PER_CHUNK
from pdrec_fast.errors import DataError

INTER = "user_id:token\titem_id:token\ttimestamp:float\n"
CSV = "user_id,item_id,timestamp\n"


@pytest.fixture(params=["with pyarrow.csv", "without"])
def write(request, tmp_path, monkeypatch):
    if request.param == "without":
        monkeypatch.setitem(sys.modules, "pyarrow.csv", None)

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def sequences(data):
    """Raw user id -> list of raw item ids in order."""
    return {
        user: data.item_ids[data.items[start:stop]].tolist()
        for user, start, stop in zip(
            data.user_ids.tolist(), data.indptr[:-1], data.indptr[1:], strict=True
        )
    }


def test_inter_file(write):
    path = write("d.inter", INTER + "2\t30\t5\n10\t4\t1.5\n2\t4\t3\n")
    data = Interactions.from_file(path)
    assert data.user_ids.tolist() == [2, 10]  # by number, not by text
    assert data.item_ids.tolist() == [4, 30]
    assert data.user_ids.dtype == np.int64
    assert sequences(data) == {2: [4, 30], 10: [4]}
    assert data.timestamps.tolist() == [3, 5, 1.5]


def test_indices_do_not_depend_on_row_order(write):
    rows = ["b,y,1", "a,x,2", "c,z,3", "a,z,1"]
    one = Interactions.from_file(write("one.csv", CSV + "\n".join(rows)))
    other = Interactions.from_file(write("two.csv", CSV + "\n".join(rows[::-1])))
    assert one.fingerprint() == other.fingerprint()
    assert one.user_ids.tolist() == ["a", "b", "c"]


def test_ties_keep_the_order_of_the_file(write):
    path = write("d.csv", CSV + "1,9,5\n1,3,5\n2,1,5\n1,7,5\n1,8,4\n")
    assert sequences(Interactions.from_file(path)) == {1: [8, 9, 3, 7], 2: [1]}


def test_bom_crlf_blank_lines_and_quotes(write):
    content = "\ufeff" + CSV + '"a,1","say ""hi""",1\r\n\r\n"a,1",5" disc,2\r\n\r\n'
    data = Interactions.from_file(write("d.csv", content.replace(CSV, CSV.replace("\n", "\r\n"))))
    assert sequences(data) == {"a,1": ['say "hi"', '5" disc']}


def test_tsv_with_own_column_names_in_any_order(write):
    path = write("d.TSV", "when\textra\twhat\twho\n2\t\ti1\tu\n1\tx\ti2\tu\n")
    data = Interactions.from_file(path, user="who", item="what", timestamp="when")
    assert sequences(data) == {"u": ["i2", "i1"]}


def test_more_rows_than_a_chunk(write):
    n = ROWS_PER_CHUNK * 2 + 3
    path = write("d.csv", CSV + "".join(f"{row % 7},{row},{n - row}\n" for row in range(n)))
    data = Interactions.from_file(path)
    assert data.n_records == n
    assert sequences(data)[3] == list(range(3, n, 7))[::-1]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["1", "-2", "0"], [-2, 0, 1]),
        (["1", "02"], ["02", "1"]),
        (["1", "+2"], ["+2", "1"]),
        (["1", "1_0"], ["1", "1_0"]),
        (["1", " 2"], [" 2", "1"]),
        (["1", "٣"], ["1", "٣"]),
        (["1", "2.5"], ["1", "2.5"]),
        (["1.0", "9007199254740993.0"], ["1.0", "9007199254740993.0"]),
        (["1", "2.0", "-3.00"], [-3, 1, 2]),
        (["1", str(2**63)], ["1", str(2**63)]),
        (["1", "9" * 5000], ["1", "9" * 5000]),
        ([str(-(2**63)), str(2**63 - 1)], [-(2**63), 2**63 - 1]),
    ],
)
def test_ids_are_integers_only_where_all_are_written_so(write, ids, expected):
    path = write("d.csv", CSV + "".join(f"{name},1,1\n" for name in ids))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # see test_odd_ids_are_counted
        data = Interactions.from_file(path)
    assert data.user_ids.tolist() == expected
    assert data.user_ids.dtype == (np.int64 if isinstance(expected[0], int) else object)


def test_without_timestamps_the_file_gives_the_order_and_a_warning(write):
    path = write("d.csv", "user_id,item_id\n1,9\n2,1\n1,3\n")
    with pytest.warns(UserWarning, match=r"no timestamps in .*d\.csv.*weights by rank") as caught:
        data = Interactions.from_file(path)
    assert caught[0].filename == __file__
    assert data.timestamps is None
    assert sequences(data) == {1: [9, 3], 2: [1]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", "", r"d\.csv: the file is empty"),
        ("d.csv", "\n\n", r"d\.csv: the file is empty"),
        ("d.csv", CSV, r"d\.csv: no records"),
        ("d.csv", CSV + "1,2,3\n1,2\n", r"d\.csv, line 3: 2 fields where the header has 3"),
        ("d.csv", CSV + "1,2,3\n\n1,2,3,4\n", r"line 4: 4 fields where the header has 3"),
        ("d.csv", CSV + "1,2,x\n", r"d\.csv, line 2, column 'timestamp': timestamp 'x'"),
        ("d.csv", CSV + "1,2,\n", r"line 2, column 'timestamp': timestamp ''"),
        ("d.csv", CSV + "1,2,1\n1,2,nan\n", r"line 3, column 'timestamp': timestamp 'nan'"),
        ("d.csv", CSV + "1,2,1\n1,2,-inf\n", r"line 3, column 'timestamp': timestamp '-inf'"),
        ("d.csv", CSV.strip() + ',x\n1,2,3,"a\nb"\n1,2,x,y\n', r"line 4, column 'timestamp'"),
        ("d.csv", CSV + '1,"a\r\n1,b\n1,c",3\n', r"line 2, column 'item_id'.* over 3 lines"),
        ("d.csv", CSV + "1,2,3\n,2,3\n", r"line 3, column 'user_id': the id is missing"),
        ("d.csv", CSV + "1,2,3\n1,  ,3\n", r"line 3, column 'item_id': the id is missing"),
        ("d.csv", CSV + '1,2,3\n1,"2,3\n1,2,3\n', r"line 3: the row cannot be parsed"),
        ("d.csv", "user_id,item_id,item_id\n1,2,3\n", r"'item_id' occurs 2 times"),
        ("d.inter", INTER + "1\t2\tx\n", r"d\.inter, line 2, column 'timestamp'"),
        ("d.csv", CSV.encode() + b"1,2,3\n\xff,2,3\n", r"d\.csv, line 3: not UTF-8"),
        ("d.csv", CSV.encode("utf-16"), r"d\.csv, line 1: not UTF-8"),
        (
            "d.csv",
            gzip.compress(CSV.encode(), mtime=0),
            r"this is a gzip file; name it 'd\.csv\.gz'",
        ),
        ("d.tsv", b"PAR1\xff", r"this is a Parquet file; name it 'd\.parquet'"),
        ("d.txt", CSV, r"unknown suffix '\.txt'; name the file as one of \.inter"),
        ("d.parquet", "PAR1 it is not", r"d\.parquet: not a readable Parquet file"),
    ],
)
def test_bad_files_are_refused_with_their_place(write, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=message):
        Interactions.from_file(write(name, content))


def test_the_line_of_an_error_beyond_the_first_chunk(write):
    rows = ["1,2,3"] * (ROWS_PER_CHUNK + 10)
    rows[ROWS_PER_CHUNK + 4] = "1,2,never"
    path = write("d.csv", CSV + "\n".join(rows))
    with pytest.raises(DataError, match=f"line {ROWS_PER_CHUNK + 6}, column 'timestamp'"):
        Interactions.from_file(path)


def test_missing_columns_say_what_to_pass(write):
    path = write("d.csv", "uid,item_id\n1,2\n")
    with pytest.raises(
        DataError, match=r"no column 'user_id'; the columns are \['uid', 'item_id'\]. Pass user="
    ):
        Interactions.from_file(path)
    with pytest.raises(DataError, match=r"no column 'time'.* Pass timestamp="):
        Interactions.from_file(path, user="uid", timestamp="time")


@pytest.mark.parametrize(("name", "mark"), [("d.csv", ";"), ("d.csv", "\t"), ("d.inter", ",")])
def test_another_delimiter_is_named(write, name, mark):
    content = f"user_id{mark}item_id\n1{mark}2\n"
    seen = re.escape(repr(mark))
    with pytest.raises(DataError, match=rf"{name}: the only column is .* as if {seen} stood"):
        Interactions.from_file(write(name, content))


def test_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "no.csv"))):
        Interactions.from_file(tmp_path / "no.csv")


class TestParquet:
    @pytest.fixture
    def write_table(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")

        def write_table(**columns):
            parquet.write_table(pyarrow.table(columns), tmp_path / "d.parquet")
            return tmp_path / "d.parquet"

        return write_table

    def test_reads_the_same_as_text(self, write_table, write):
        path = write_table(
            user_id=["b", "a", "b"], item_id=[3, 1, 2], timestamp=[2.0, 1.0, 1.0], x=[0, 0, 0]
        )
        text = write("d.csv", CSV + "b,3,2\na,1,1\nb,2,1\n")
        parquet, csv = Interactions.from_file(path), Interactions.from_file(text)
        assert parquet.fingerprint() == csv.fingerprint()

    def test_dictionary_ids_and_zoned_times(self, write_table):
        import pyarrow

        path = write_table(
            user_id=pyarrow.array(["u", "v", "u"]).dictionary_encode(),
            item_id=[1, 2, 3],
            timestamp=pyarrow.array([7_000, 2_000, 1_500], pyarrow.timestamp("ms", tz="UTC")),
        )
        data = Interactions.from_file(path)
        assert sequences(data) == {"u": [3, 1], "v": [2]}
        assert data.timestamps.tolist() == [1.5, 7, 2]

    def test_nulls_are_refused(self, write_table):
        path = write_table(user_id=[1, None], item_id=[1, 2], timestamp=[1, 2])
        with pytest.raises(DataError, match=r"d\.parquet, row 1 .*'user_id': the id is missing"):
            Interactions.from_file(path)
        path = write_table(user_id=[1, 1], item_id=[1, 2], timestamp=[1, None])
        with pytest.raises(DataError, match=r"row 1 .*column 'timestamp'"):
            Interactions.from_file(path)

    def test_without_pyarrow_the_message_says_what_to_install(self, write, monkeypatch):
        def refuse(name, *args, **kwargs):
            if name.startswith("pyarrow"):
                raise ImportError(name)
            return original(name, *args, **kwargs)

        original = builtins.__import__
        monkeypatch.setattr(builtins, "__import__", refuse)
        with pytest.raises(ImportError, match=r"pip install pdrec_fast\[frames\]"):
            Interactions.from_file(write("d.parquet", "x"))


@pytest.mark.parametrize("library", ["pandas", "polars"])
class TestFrames:
    def make(self, library, **columns):
        default = {"user_id": ["b", "a", "b"], "item_id": [3, 1, 2], "timestamp": [2.0, 1.0, 1.0]}
        return pytest.importorskip(library).DataFrame({**default, **columns})

    def test_reads_ids_and_times(self, library):
        data = Interactions.from_frame(self.make(library))
        assert sequences(data) == {"a": [1], "b": [2, 3]}
        assert data.timestamps.tolist() == [1, 1, 2]

    def test_datetimes_become_unix_seconds(self, library):
        times = np.array(["1970-01-02", "1970-01-01T00:00:01.5", "1970-01-01"], "datetime64[ms]")
        data = Interactions.from_frame(self.make(library, timestamp=times))
        assert data.timestamps.tolist() == [1.5, 0, 86_400]

    def test_nulls_are_refused_with_row_and_column(self, library):
        with pytest.raises(DataError, match=r"row 1 \(counted from 0\), column 'user_id'.*missing"):
            Interactions.from_frame(self.make(library, user_id=["b", None, "b"]))
        with pytest.raises(DataError, match=r"row 2 .*column 'item_id': the id is missing"):
            Interactions.from_frame(self.make(library, item_id=[1, 2, None]))
        with pytest.raises(DataError, match=r"row 0 .*column 'timestamp'"):
            Interactions.from_frame(self.make(library, timestamp=[None, 1.0, 2.0]))
        times = np.array(["1970-01-02", "NaT", "1970-01-01"], "datetime64[ms]")
        with pytest.raises(DataError, match=r"row 1 .*column 'timestamp'"):
            Interactions.from_frame(self.make(library, timestamp=times))

    def test_missing_column(self, library):
        with pytest.raises(DataError, match=r"the data frame: no column 'who'.* Pass user="):
            Interactions.from_frame(self.make(library), user="who")


def test_pandas_zones_nullable_columns_and_index():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "user_id": pandas.array([1, 1, 2], dtype="Int64"),
            "item_id": pandas.Categorical(["y", "x", "y"]),
            "timestamp": pandas.to_datetime([3, 2, 1], unit="s", utc=True).tz_convert("Asia/Tokyo"),
        },
        index=[5, 5, 9],
    )
    data = Interactions.from_frame(frame)
    assert sequences(data) == {1: ["x", "y"], 2: ["y"]}
    assert data.timestamps.tolist() == [2, 3, 1]
    frame.loc[9, "user_id"] = pandas.NA
    with pytest.raises(DataError, match=r"row 2 .*column 'user_id': the id is missing"):
        Interactions.from_frame(frame)


def test_something_else_than_a_frame():
    with pytest.raises(TypeError, match=r"DataFrame.* or a dict of columns, not list"):
        Interactions.from_frame([1, 2])


class TestArrays:
    def test_non_contiguous_arrays(self):
        table = np.array([[2, 7, 5], [1, 9, 4], [2, 8, 3]])
        data = Interactions.from_arrays(table[:, 0], table[:, 1], table[:, 2])
        assert sequences(data) == {1: [9], 2: [8, 7]}

    def test_mixed_ids_are_strings(self):
        data = Interactions.from_arrays([1, "a", "1"], np.array(["x", "y", "z"]), [1, 2, 3])
        assert sequences(data) == {"1": ["x", "z"], "a": ["y"]}

    def test_numpy_scalars_in_an_object_array(self):
        users = np.array([np.int32(3), 2], dtype=object)
        assert Interactions.from_arrays(users, [1, 1], [1, 1]).user_ids.tolist() == [2, 3]

    def test_times_as_strings(self):
        data = Interactions.from_arrays([1, 1], [1, 2], ["2.5", "1"])
        assert data.timestamps.tolist() == [1, 2.5]

    def test_different_lengths(self):
        with pytest.raises(ValueError, match=r"'users': 2, 'items': 1, 'timestamps': 2"):
            Interactions.from_arrays([1, 2], [1], [1, 2])

    def test_no_rows(self):
        with pytest.raises(DataError, match="the arrays: no records"):
            Interactions.from_arrays([], [], [])

    @pytest.mark.parametrize(
        ("users", "message"),
        [
            ([1, None], r"row 1 .*column 'users': the id is missing"),
            ([1.0, float("nan")], r"row 1 .*the id is missing"),
            (np.array([1.0, 2.5]), r"row 1 .*id 2\.5 is neither a string nor a whole number"),
            (np.array([1.0, np.inf]), r"row 1 .*id inf is neither"),
            ([1.0, 2.0**60], r"row 1 .*id 1\.15.* is beyond 2\*\*53"),
            (np.array([1.0, 2.0**60]), r"row 1 .*id 1\.15.* is beyond 2\*\*53"),
            ([1, Decimal("2.5")], r"row 1 .*id Decimal\('2\.5'\) is neither"),
            ([1, Decimal("NaN")], r"row 1 .*the id is missing"),
            ([1, True], r"row 1 .*id True is neither"),
            ([1, b"2"], r"row 1 .*id b'2' is bytes, not text; decode"),
            (np.array([b"1", b"2"]), r"row 0 .*id b'1' is bytes"),
            ([1, ""], r"row 1 .*the id is missing"),
            (np.ones((2, 2), int), r"row 0 .*id \[1, 1\] is neither"),
        ],
    )
    def test_unusable_ids(self, users, message):
        with pytest.raises(DataError, match=message):
            Interactions.from_arrays(users, [1, 2], [1, 2])

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "soon", 10**400])
    def test_unusable_times(self, bad):
        with pytest.raises(DataError, match=r"the arrays, row 1 .*column 'timestamps': timestamp"):
            Interactions.from_arrays([1, 1], [1, 2], [1, bad])


@pytest.mark.parametrize(
    ("stamp", "message"),
    [
        ("26.11.2020 15:26", "looks like a date: write it as ISO 8601"),
        ("9223372036854775808", "too large to keep its order"),
        ("-1e17", "too large to keep its order"),
        ("2020-01-01", "is a date, but the rows before have numbers"),
    ],
)
def test_unusable_times_in_text(write, stamp, message):
    path = write("d.csv", CSV + f"1,2,5\n1,3,{stamp}\n")
    with pytest.raises(DataError, match=rf"d\.csv, line 3, column 'timestamp': .*{message}"):
        Interactions.from_file(path)


@pytest.mark.parametrize(
    ("stamp", "message"),
    [
        ("2020-02-30", "there is no such day or time"),
        ("2020-01-01T24:00", "there is no such day or time"),
        ("5", "is no date"),
        ("", "is no date"),
    ],
)
def test_unusable_dates_in_text(write, stamp, message):
    path = write("d.csv", CSV + f"1,2,2020-01-01\n1,3,{stamp}\n")
    with pytest.raises(DataError, match=rf"d\.csv, line 3, column 'timestamp': .*{message}"):
        Interactions.from_file(path)


ODD = ["5,a,1", "nan,b,2", "5,NULL,3", "nan, c,4", "null,\\N,5", "6,d ,6"]


def test_odd_ids_are_counted(write):
    path = write("d.csv", CSV + "\n".join(ODD))
    with pytest.warns(UserWarning, match="the id") as caught:
        data = Interactions.from_file(path)
    assert caught[0].filename == __file__
    assert data.n_records == 6
    user, item, spaces = (str(warning.message) for warning in caught)
    assert re.search(r"d\.csv, line 3, column 'user_id': the id 'nan' .* 3 records", user)
    assert re.search(r"line 4, column 'item_id': the id 'NULL' .* 2 records", item)
    assert re.search(r"line 5, column 'item_id': the id ' c' has spaces .* 2 records", spaces)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["1.0", "2", "3"], r"line 2.*ids of 1 records are written as decimals.*'1\.0' is 1"),
        (["1", "2.0", "2.5"], r"line 3.*ids of 2 records are decimals, such as '2\.0', and kept"),
    ],
)
def test_decimals_in_text_are_told(write, ids, message):
    with pytest.warns(UserWarning, match=message):
        Interactions.from_file(
            write("d.csv", CSV + "".join(f"{name},a{row},1\n" for row, name in enumerate(ids)))
        )


@pytest.mark.parametrize("suffix", [".inter", ".tsv"])
def test_quotation_marks_are_part_of_an_id_between_tabs(write, suffix):
    rows = ['1\t"Heroes\t1', "1\tB\t2", '2\tBlue Moon"\t5', '2\t"\t6']
    path = write(f"d{suffix}", "user_id\titem_id\ttimestamp\n" + "\n".join(rows))
    assert sequences(Interactions.from_file(path)) == {1: ['"Heroes', "B"], 2: ['Blue Moon"', '"']}
    quoted = write(f"q{suffix}", 'user_id\titem_id\ttimestamp\n1\t"A"\t1\n1\t"B"\t2\n')
    with pytest.warns(UserWarning, match=r"line 2, column 'item_id': .* 2 records .* marks"):
        Interactions.from_file(quoted)


def test_fields_that_span_lines_are_counted(write):
    rows = ["1,2,3,x", '1,3,4,"y', '1,4,5,z"', '1,5,6,"u\r\nv"', "1,6,7,w"]
    path = write("d.csv", CSV.strip() + ",title\n" + "\n".join(rows))
    with pytest.warns(UserWarning, match=r"d\.csv, lines 3 to 4: a quoted field .* in 2 records"):
        assert Interactions.from_file(path).n_records == 4


def test_text_without_a_header(write):
    options = {"user": 0, "item": 2, "timestamp": 1, "header": False}
    for mark, name in [(",", "d.csv"), ("\t", "d.inter")]:
        path = write(name, "\ufeff" + "".join(f"7{mark}{time}{mark}a{time}\n" for time in (2, 1)))
        assert sequences(Interactions.from_file(path, **options)) == {7: ["a1", "a2"]}
    quoted = write("q.csv", '\n7,2,"a"\n7,1,b\n')
    assert sequences(Interactions.from_file(quoted, **options)) == {7: ["b", "a"]}
    with pytest.raises(DataError, match="line 2, column 1: timestamp 'x'"):
        Interactions.from_file(write("x.csv", "7,2,a\n7,x,b\n"), **options)
    with pytest.raises(DataError, match="line 2: 2 fields where the first row has 3"):
        Interactions.from_file(write("x.csv", "7,2,a\n7,1\n"), **options)
    with pytest.raises(DataError, match=r"no column at position 2 for item=; .* from 0 to 1"):
        Interactions.from_file(write("x.csv", "7,2\n"), **options)
    with pytest.raises(DataError, match="the file is empty; expected records"):
        Interactions.from_file(write("x.csv", ""), **options)
    with pytest.raises(ValueError, match="columns are given by position, such as user=0"):
        Interactions.from_file(path, user="u", item=1, header=False)


def test_positions_and_integer_labels(write):
    path = write("d.csv", "when,who,what\n2,u,a\n1,u,b\n")
    data = Interactions.from_file(path, user=1, item=2, timestamp=0)
    assert sequences(data) == {"u": ["b", "a"]}
    path = write("d.csv", ",2,1,0\n8,u,a,2\n9,u,b,1\n")  # written from a frame, with its index
    data = Interactions.from_file(path, user=2, item=1, timestamp=0)
    assert sequences(data) == {"u": ["b", "a"]}
    for odd in (True, 1.5):
        with pytest.raises(TypeError, match=f"item={odd}: give a column by its name or its pos"):
            Interactions.from_file(path, item=odd)


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"item": "user_id"}, "'user_id' is given as user and as item: pass another item="),
        ({"item": 0}, "'user_id' is given as user and as item"),
        ({"timestamp": "item_id"}, "'item_id' is given as item and as timestamp"),
        ({"rating": 2, "min_rating": 1}, "'timestamp' is given as timestamp and as rating"),
    ],
)
def test_one_column_is_not_two(write, columns, text):
    path = write("d.csv", CSV + "1,2,3\n")
    with pytest.raises(DataError, match=rf"d\.csv: column {text}"):
        Interactions.from_file(path, **columns)
    frame = {"user_id": [1], "item_id": [2], "timestamp": [3]}
    with pytest.raises(DataError, match=f"column {text}"):
        Interactions.from_frame(frame, **columns)


@pytest.mark.filterwarnings("ignore:no timestamps")
@pytest.mark.parametrize("truth", [("True", "False"), ("true", "true"), ("TRUE", "FALSE")])
def test_truth_values_are_ratings_and_no_ids(write, tmp_path, truth):
    """In text as in Parquet."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = "".join(f"1,{item},{value}\n" for item, value in zip("ab", truth, strict=True))
    text = write("d.csv", "user_id,item_id,rating\n" + rows)
    values = [value.lower() == "true" for value in truth]
    table = pyarrow.table({"user_id": [1, 1], "item_id": ["a", "b"], "rating": values})
    parquet.write_table(table, tmp_path / "d.parquet")
    for path in (text, tmp_path / "d.parquet"):
        found = Interactions.from_file(path, min_rating=1)
        assert found.item_ids.tolist() == ["a", "b"][: sum(values)]
        with pytest.raises(
            DataError, match=r"column 'rating': (all ids are true or|id (True|Fal))"
        ):
            Interactions.from_file(path, item="rating")
    mixed = write("d.csv", CSV + "1,true,1\n1,other,2\n")
    assert Interactions.from_file(mixed).item_ids.tolist() == ["other", "true"]
