"""What pyarrow reads must be what the csv module reads; the rest must be left to the latter."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pdrec_fast.data.plain_text import read_plain_text
from pdrec_fast.data.records import ColumnNames
from pdrec_fast.data.sources import Source
from pdrec_fast.data.text import read_text
from pdrec_fast.errors import DataError

pytest.importorskip("pyarrow.csv")

HEADER = b"user_id,item_id,timestamp\n"
NAMES = ColumnNames()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "d.csv"


def assert_equal(fast, reference):
    for name in ("users", "items", "timestamps", "user_ids", "item_ids"):
        one, other = getattr(fast, name), getattr(reference, name)
        if other is None:
            assert one is None, name
            continue
        assert one.dtype == other.dtype, name
        assert one.tolist() == other.tolist(), name
        assert list(map(type, one.tolist())) == list(map(type, other.tolist())), name
    if fast.times is not None:  # the same exact order, too
        assert fast.times.dated == reference.times.dated
        keys = [(times.part, times.keys, times.values) for times in (fast.times, reference.times)]
        one, other = (np.lexsort([key for key in of if key is not None]).tolist() for of in keys)
        assert one == other
    assert (
        fast.timestamps is None
        or (np.signbit(fast.timestamps) == np.signbit(reference.timestamps)).all()
    )
    assert fast.source == reference.source


def read_both(path, content, names=NAMES):
    """Both readers' records, None where one declines or refuses; equal where both read."""
    path.write_bytes(content)
    source = Source(path, path.suffix)
    try:
        reference = read_text(source, names)
    except DataError:
        reference = None
    try:
        fast = read_plain_text(source, names)
    except DataError:
        fast = None
    if fast is not None:
        assert reference is not None, "pyarrow accepted what the csv reader refuses"
        assert_equal(fast, reference)
    return fast, reference


@pytest.mark.parametrize(
    "content",
    [
        HEADER + b"1,2,3\n",
        HEADER + b"1,2,3",
        HEADER + b"1,0,3\n10,0,1.5e3\n2,7,-4\n\n\n1,0,3\n",
        HEADER.replace(b"\n", b"\r\n") + b"1,2,3\r\n\r\n4,5,6\r\n",
        b"\xef\xbb\xbf" + HEADER + b"1,2,3\n",
        HEADER + b"-1,2,0.1\n-1,2,.5\n",
        HEADER + b"u,02,3\nU,2,3\n",
        HEADER + b" 1, x y ,  3 \n",
        HEADER + "ü,東京,3\nu,🙂,4\n".encode(),
        HEADER + b"9223372036854775807,9223372036854775808,3\n",
        HEADER + b"1000000007,0x1F,-0.0\n9000000000000000000,NA,9007199254740992\n",
        b"user_id,extra,item_id,extra,timestamp\n1,a,null,b,3\n1,,true,,4\n",
        b"user_id,item_id\n1,2\n3,4\n",
        HEADER + b"1,2,1600000000000000002\n1,3,1600000000000000001\n",
        HEADER + b"1,2,1600000000.25\n1,3,1600000000.25\n1,3,7.0\n",
        HEADER + b"1,2,2020-01-01\n1,3,2019-12-31 23:59:59.25\n",
        HEADER + b"1,2,2020-01-01T00:00:00.000000002Z\n1,3,2020-01-01 01:00+01:00\n",
    ],
)
def test_ordinary_files_take_the_fast_way(path, content):
    fast, reference = read_both(path, content)
    assert fast is not None
    assert reference is not None


@pytest.mark.parametrize(
    "id_",
    [
        *("-10", "-1000000000000000000", "-9223372036854775808", "9223372036854775807", "100"),
        *("-0", "+5", "007", " 5", "5 ", "0x1F", "1e3", "5.0", "9223372036854775808"),
    ],
)
def test_only_integers_in_their_own_form_are_integers(path, id_):
    fast, _ = read_both(path, HEADER + f"{id_},1,3\n12,2,3\n{id_},3,3\n".encode())
    assert fast is not None
    whole = id_.removesuffix(".0")
    integers = whole.lstrip("-").isdigit() and whole == str(int(whole)) and int(whole) < 2**63
    assert (fast.user_ids.dtype == np.int64) == integers


@pytest.mark.parametrize(
    "content",
    [
        HEADER + b'1,"2",3\n',
        HEADER + b'1,2"x,3\n',
        b"\n" + HEADER + b"1,2,3\n",
        HEADER + b"1,2,3\r4,5,6\n",
        HEADER + b"1,2,1_000\n",
        HEADER + "1,2,٣\n".encode(),
        HEADER + b"1,2,1600000000.000000002\n1,3,1600000000.000000001\n",
        HEADER + b"1,2,9999-12-31\n",
    ],
)
def test_unusual_files_are_left_to_the_csv_reader(path, content):
    fast, reference = read_both(path, content)
    assert fast is None
    assert reference is not None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xef\xbb\xbf",
        b"user_id,item_id",
        HEADER,
        HEADER + b"\n\n",
        HEADER + b"1,2\n",
        HEADER + b"1,2,3,4\n",
        HEADER + b"1,2,3\n \n",
        HEADER + b",2,3\n",
        HEADER + b",,3\n",
        HEADER + "\u3000,2,3\n".encode(),
        HEADER + b"1,2,\n",
        HEADER + b"1,2,nan\n",
        HEADER + b"1,2,inf\n",
        HEADER + b"1,2,1e999\n",
        HEADER + b"1,2,9007199254740994.0\n",
        HEADER + b"1,2,9223372036854775808\n",
        HEADER + b"1,2,5\n1,2,2020-01-01\n",
        HEADER + b"1,2,2020-02-30\n",
        HEADER + b"1,2,0x10\n",
        HEADER + b"\xff,2,3\n",
        b"user_id,item_id,timestamp,x\n1,2,3,\xff\n",
        b"user_id,item_id,user_id\n1,2,3\n",
    ],
)
def test_bad_files_are_left_to_the_csv_reader_to_refuse(path, content):
    assert read_both(path, content) == (None, None)


def test_a_byte_order_mark_inside_belongs_to_the_id(path):
    fast, _ = read_both(path, HEADER + "\ufeffa,1,1\n".encode())
    assert fast.user_ids.tolist() == ["\ufeffa"]


def test_nul_is_left_to_the_csv_reader(path):
    assert read_both(path, HEADER + b"a\0,1,1\n")[0] is None


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_many_blocks(path, newline):
    rows = [b"%d,item %d,%d" % (row % 977, row % 1201, -row) for row in range(150_000)]
    fast, _ = read_both(path, HEADER.replace(b"\n", newline) + newline.join(rows))
    assert len(fast.users) == 150_000


def test_blocks_of_blank_lines(path):
    blank = b"\n" * 2_500_000
    fast, _ = read_both(path, HEADER + blank + b"1,2,3\n" + blank + b"2,3,4\n" + blank)
    assert fast is None or len(fast.users) == 2


def test_ids_that_stop_being_integers_in_a_late_block(path):
    rows = [b"%d,%d,1" % (row, row) for row in range(150_000)] + [b"007,a,1"]
    fast, _ = read_both(path, HEADER + b"\n".join(rows))
    assert fast.user_ids.dtype == fast.item_ids.dtype == object


@pytest.mark.parametrize("length", [1, 0])
def test_fields_beyond_the_limit_of_the_csv_module(path, length):
    long = b"x" * (csv.field_size_limit() + length)
    fast, reference = read_both(path, HEADER + b"1,2,3\n" * 9 + b"1," + long + b",3\n")
    assert fast is None
    assert (reference is None) == (length == 1)


def test_pandas_is_not_imported(path):
    path.write_bytes(HEADER + b"1,a,3\n")
    code = (
        "import sys; import pdrec_fast as pf; "
        f"pf.Interactions.from_file({str(path)!r}); "
        "assert 'pyarrow.csv' in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_pyarrow(path, monkeypatch):
    path.write_bytes(HEADER + b"1,2,3\n")
    monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
    assert read_plain_text(Source(path, ".csv"), NAMES) is None


one_path_for_all = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
fields = st.one_of(
    st.integers(-2, 12).map(str),
    st.sampled_from(["", " ", "0", "00", "-0", "+5", "1.5", "1e3", "nan", "NULL", "\t1", "1 "]),
    st.sampled_from(["5.0", "2.00", "-3.0", "9007199254740993", "2020-01-01", "2020-01-01T05:00Z"]),
    st.text('01-.,e"\r\nü x\0\ufeff\x1c', max_size=4),
)
stamps = st.one_of(st.integers(0, 9).map(str), st.floats(-1e9, 1e9).map(repr), fields)
breaks = st.sampled_from(["\n", "\n", "\n", "\r\n", "\n\n", "\r", "\x0b", "\u2028"])
files = st.lists(st.tuples(fields, fields, stamps, breaks), max_size=6).map(
    lambda rows: "".join(f"{user},{item},{time}{end}" for user, item, time, end in rows)
)


@settings(one_path_for_all, max_examples=200)
@given(files)
@example("00,-0,1\n")
@example("1,\x1c,1\n")
def test_both_readers_agree(path, text):
    read_both(path, HEADER + text.encode())


plain_ids = st.text(st.characters(exclude_characters=',"\r\n\0', exclude_categories=["Cs"]))
plain_times = st.floats(-1e15, 1e15).map(lambda time: repr(time + 0.0))  # without a second zero
plain_rows = st.tuples(plain_ids, plain_ids, plain_times).map(",".join)


@settings(one_path_for_all, max_examples=100)
@given(st.lists(plain_rows, min_size=1, max_size=8))
def test_plain_rows_take_the_fast_way(path, rows):
    fast, reference = read_both(path, HEADER + "\n".join(rows).encode())
    assert (fast is None) == (reference is None)


@settings(one_path_for_all, max_examples=200)
@given(st.floats(-(2.0**53), 2.0**53), st.integers(0, 25))
def test_timestamps_are_rounded_alike(path, time, digits):
    written = [repr(time), f"{time:.{digits}f}", f"{time:.{digits}e}"]
    read_both(path, HEADER + "".join(f"1,2,{stamp}\n" for stamp in written).encode())
