"""Stores hold what the reader of files gives, and are opened without a copy."""

import gzip
import hashlib
import json
import warnings
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pytest
from typer.testing import CliRunner

import pdrec_fast as pf
from pdrec_fast.cli import app
from pdrec_fast.data import interactions, preparing
from pdrec_fast.data import store as store_files
from pdrec_fast.data.ordering import check_times
from pdrec_fast.data.store import CARD, open_store, write_ids

pytest.importorskip("duckdb")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

N = 60
USERS = [f"ü{n * 7 % 11}" for n in range(N)]
ITEMS = [n * n % 23 - 5 for n in range(N)]
TIMES = [1_600_000_000 + n * 31 % 17 for n in range(N)]
START = datetime(2020, 9, 14, tzinfo=timezone.utc)
NANOSECONDS = np.array(TIMES) * 10**9 + np.arange(N) % 3  # float64 merges them


def prepared(data, folder, **options):
    return pf.prepare(data, folder, threads=1, memory="300MB", **options)


def write_text(path, rows, header="user_id,item_id,timestamp"):
    lines = [header, *(",".join(map(str, row)) for row in rows)] if header else rows
    text = "\n".join(",".join(map(str, line)) if header is None else line for line in lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        delimited = text if path.suffix == ".csv" else text.replace(",", "\t")
        path.write_text(delimited, encoding="utf-8")
    return path


def write_parquet(path, users, items, times):
    parquet.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), path)
    return path


def iso(seconds):
    zone = timezone(timedelta(hours=2))
    return datetime.fromtimestamp(seconds, zone).isoformat(timespec="milliseconds")


TEXTS = {
    "plain": (USERS, ITEMS, TIMES),
    "decimals": ([f"{n % 9}.0" for n in range(N)], [n % 5 for n in range(N)], TIMES),
    "kept decimals": ([f"{n % 9}.5" for n in range(N)], ITEMS, TIMES),
    "zeros": ([f"0{n % 9}" for n in range(N)], [str(-(2**63) + n % 3) for n in range(N)], TIMES),
    "fractions": (USERS, ITEMS, [f"{n % 3}.{n % 7}00000000000000{n % 2}" for n in range(N)]),
    "large": (USERS, ITEMS, [9_007_199_254_740_993 + n % 4 for n in range(N)]),
    "dates": (USERS, ITEMS, [iso(n * 3600.125 - 2 * 10**9) for n in range(N)]),
    "days": (USERS, ITEMS, [date(2020, 1, 1 + n % 28).isoformat() for n in range(N)]),
    "odd": ([f" {n % 4} " for n in range(N)], ["NULL" if n % 2 else '"a' for n in range(N)], TIMES),
}


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("name", TEXTS)
def test_text_as_from_file(tmp_path, name, parts):
    file = write_text(tmp_path / "data.tsv", zip(*TEXTS[name], strict=True))
    expected = pf.Interactions.from_file(file)
    prepared(file, tmp_path / "store", parts=parts)
    found = pf.Interactions.from_store(tmp_path / "store")
    assert found.fingerprint() == expected.fingerprint()
    assert found.item_ids.dtype == expected.item_ids.dtype


COLUMNS = {
    "int32 and uint64": (
        np.array(ITEMS, np.int32),
        np.array([2**64 - 1 - n % 6 for n in range(N)], np.uint64),
        np.array(TIMES),
    ),
    "whole floats": (np.array(ITEMS, float), [Decimal(n % 9) for n in range(N)], np.arange(N) / 7),
    "decimal times": (ITEMS, USERS, [Decimal(n % 5) / 3 for n in range(N)]),
    "nanoseconds": (ITEMS, USERS, NANOSECONDS.view("M8[ns]")),
    "milliseconds": (ITEMS, USERS, (np.arange(N)[::-1] * 77 - 999).view("M8[ms]")),
    "zoned": (ITEMS, USERS, [START + timedelta(microseconds=n * 7 % 40) for n in range(N)]),
    "days": (ITEMS, USERS, [date(1960, 1, 1 + n % 28) for n in range(N)]),
    "dictionary": (pa.array(USERS).dictionary_encode(), ITEMS, [str(n % 7) for n in range(N)]),
    "no records but one": (["a"], ["b"], [1]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_parquet_as_from_file(tmp_path, name, monkeypatch):
    monkeypatch.setattr(preparing, "_ROWS_PER_BLOCK", 7)  # users and parts go on over blocks
    file = write_parquet(tmp_path / "data.parquet", *COLUMNS[name])
    expected = pf.Interactions.from_file(file)
    for parts in (1, 5):
        prepared(file, tmp_path / "store", parts=parts)
        assert pf.Interactions.from_file(tmp_path / "store").fingerprint() == expected.fingerprint()


def test_several_files(tmp_path):
    """Of integers and text, of no rows, with ties that only the order of the names decides."""
    folder = tmp_path / "parts"
    folder.mkdir()
    write_parquet(folder / "b.parquet", [3, 1, 1], [7, 8, 9], [5, 5, 5])
    write_parquet(folder / "a.parquet", ["1", "u", "1"], ["x", "2", "8"], [5, 5, 5])
    empty = pa.array([], pa.int64())
    write_parquet(folder / "c.parquet", empty, empty, empty)
    expected = pf.Interactions.from_file(folder)
    for data in (folder, f"{folder}/*.parquet"):
        prepared(data, tmp_path / "store")
        assert pf.Interactions.from_store(tmp_path / "store").fingerprint() == (
            expected.fingerprint()
        )
    assert expected.item_ids[expected.items[:4]].tolist() == ["x", "8", "8", "9"]


def test_compressed_quoted_and_without_times_or_header(tmp_path):
    rows = [('"a,b"', 1), ('"a""b"', 2), ("c", 1), ("a", 3)]
    file = write_text(tmp_path / "data.csv.gz", rows, "user_id,item_id")
    bare = write_text(tmp_path / "bare.csv", rows, None)
    for path, options in ((file, {}), (bare, {"header": False, "user": 1, "item": 0})):
        expected = pf.Interactions.from_file(path, **options)
        with pytest.warns(UserWarning, match="no timestamps"):
            prepared(path, tmp_path / "store", **options)
        found = pf.Interactions.from_store(tmp_path / "store")
        assert found.timestamps is None
        assert found.fingerprint() == expected.fingerprint()


@pytest.mark.parametrize(
    "options",
    [
        {"since": TIMES[5], "until": TIMES[5] + 6},
        {"since": "2020-09-13T12:26:45Z", "until": datetime(2021, 1, 1)},
        {"repeats": "first"},
        {"repeats": "last", "min_item": 2},
        {"min_user": 3, "min_item": 5},
        {"until": 1_600_000_009.5, "repeats": "first", "min_user": 4, "min_item": 2},
    ],
)
def test_filters_as_from_file(tmp_path, options):
    texts = write_text(tmp_path / "data.csv", zip(USERS, ITEMS, TIMES, strict=True))
    dated = write_parquet(tmp_path / "d.parquet", USERS, ITEMS, NANOSECONDS.view("M8[ns]"))
    floats = write_parquet(tmp_path / "f.parquet", USERS, ITEMS, np.array(TIMES, float))
    integers = write_parquet(tmp_path / "i.parquet", USERS, ITEMS, NANOSECONDS)
    for file in (texts, dated, floats, integers):
        if file is integers and isinstance(
            options.get("since", options.get("until")), (int, float)
        ):
            continue  # its unit is another
        expected = pf.Interactions.from_file(file, **options)
        assert expected.n_records < N
        prepared(file, tmp_path / "store", parts=2, **options)
        found = pf.Interactions.from_store(tmp_path / "store")
        assert found.fingerprint() == expected.fingerprint()


@pytest.fixture
def store(tmp_path):
    file = write_parquet(tmp_path / "data.parquet", ITEMS, USERS, TIMES)
    prepared(file, tmp_path / "store", parts=3)
    return tmp_path / "store"


def test_a_store_that_is_replaced_while_it_is_opened_is_one_of_the_two(tmp_path, monkeypatch):
    """Of two stores of equal counts no file tells that it is the other's: a store has no check
    sums."""
    for name, items, times in (
        ("old", [1, 2, 3, 4], [1, 2, 3, 4]),
        ("new", [4, 3, 2, 1], [5, 6, 7, 8]),
    ):
        write_text(tmp_path / f"{name}.csv", list(zip([1, 1, 2, 2], items, times, strict=True)))
    expected = pf.Interactions.from_file(tmp_path / "new.csv").fingerprint()
    prepared(tmp_path / "old.csv", tmp_path / "store", parts=1)

    opened = store_files._map

    def replaced_after_its_items(file, *given):
        array = opened(file, *given)
        if file.name == "part-00000.items.npy":
            monkeypatch.setattr(store_files, "_map", opened)
            prepared(tmp_path / "new.csv", tmp_path / "store", parts=1)
        return array

    monkeypatch.setattr(store_files, "_map", replaced_after_its_items)
    assert pf.Interactions.from_store(tmp_path / "store").fingerprint() == expected


def test_nothing_is_copied(store):
    for part in ((0, 3), (2, 3)):
        data = pf.Interactions.from_store(store, part=part)
        for name in ("indptr", "items", "timestamps", "user_ids"):
            array = getattr(data, name)
            assert isinstance(array.base, np.memmap), name
            assert not array.flags.writeable
    split = pf.leave_one_out(pf.Interactions.from_store(store, part=(0, 3)))
    assert split.report.n_train > 0


def test_parts_are_joined_in_arrays_that_are_not_copied_again(store, monkeypatch):
    joined = []

    def opened(*given):
        joined.append(open_store(*given))
        return joined[0]

    monkeypatch.setattr(interactions, "open_store", opened)
    data = pf.Interactions.from_store(store)
    for name in ("indptr", "items", "timestamps", "user_ids"):
        assert getattr(data, name) is getattr(joined[0], name), name
        assert not getattr(data, name).flags.writeable


def test_shares(store):
    whole = pf.Interactions.from_store(store)
    for n_shares in (1, 2, 3):
        shares = [pf.Interactions.from_store(store, part=(i, n_shares)) for i in range(n_shares)]
        users = np.sort(np.concatenate([share.user_ids for share in shares]))
        np.testing.assert_array_equal(users, whole.user_ids)
        for share in shares:
            assert share.catalogue.is_that_of(whole.catalogue)
            for user, number in enumerate(whole.user_index(share.user_ids)):
                own, its = (data.histories([n]) for data, n in ((share, user), (whole, number)))
                assert own.items[own.starts[0] : own.stops[0]].tolist() == (
                    its.items[its.starts[0] : its.stops[0]].tolist()
                )
    for number in range(3):  # the hash that docs/scale.md tells
        for user in pf.Interactions.from_store(store, part=(number, 3)).user_ids:
            digest = hashlib.md5(str(user).encode()).hexdigest()
            assert int(digest[:8], 16) % 3 == number


def test_more_parts_than_users(tmp_path):
    file = write_parquet(tmp_path / "data.parquet", ["a", "b"], [1, 2], [3.0, 4.0])
    card = prepared(file, tmp_path / "store", parts=50)
    assert sorted(part["n_users"] for part in card["parts"])[-3:] == [0, 1, 1]
    shares = [pf.Interactions.from_store(tmp_path / "store", part=(i, 50)) for i in range(50)]
    assert sum(share.n_records for share in shares) == 2
    assert {share.n_items for share in shares} == {2}


@pytest.mark.parametrize("part", [(3, 3), (-1, 2), (0, 4), (0,), 1, (0.0, 2), (True, 2)])
def test_wrong_shares(store, part):
    with pytest.raises(ValueError, match="part must be"):
        pf.Interactions.from_store(store, part=part)


BAD = {
    "no user": ([1, None, 2], [1, 2, 3], [1, 2, 3]),
    "blank item": (["a", "b", "c"], ["x", "y", "\t"], [1, 2, 3]),
    "half an id": ([1.0, 2.5, 3.0], [1, 2, 3], [1, 2, 3]),
    "large float": ([1.0, 1e17, 3.0], [1, 2, 3], [1, 2, 3]),
    "no time": ([1, 2, 3], [1, 2, 3], [1, None, 3]),
    "infinite": ([1, 2, 3], [1, 2, 3], [1.0, 2.0, np.inf]),
    "text": ([1, 2, 3], [1, 2, 3], ["1", "2", "x"]),
    "US date": ([1, 2, 3], [1, 2, 3], ["1/2/2020", "2", "x"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_refused_as_from_file_does(tmp_path, name):
    good = write_parquet(tmp_path / "a.parquet", *(column[:1] for column in ([1], [1], [1])))
    if name in ("text", "US date"):
        good.unlink()
    file = write_parquet(tmp_path / "b.parquet", *BAD[name])
    with pytest.raises(pf.DataError) as expected:
        pf.Interactions.from_file(file)
    with pytest.raises(pf.DataError) as refused:
        prepared(f"{tmp_path}/*.parquet", tmp_path / "store")
    assert str(refused.value) == str(expected.value)
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}  # nothing half-written


@pytest.mark.parametrize("place", [0, 2])
def test_narrow_floats_are_refused_as_from_file_does(tmp_path, place):
    columns = [[1, 2, 3], [1, 2, 3], [1, 2, 3]]
    columns[place] = np.array([1, 2**24 + 4, 3], np.float32)
    file = write_parquet(tmp_path / "a.parquet", *columns)
    with pytest.raises(pf.DataError, match=r"row 1 .*float32") as expected:
        pf.Interactions.from_file(file)
    with pytest.raises(pf.DataError) as refused:
        prepared(file, tmp_path / "store")
    assert str(refused.value) == str(expected.value)


def test_bad_lines_are_named(tmp_path):
    file = write_text(tmp_path / "data.csv", [("a", 1, 5), ('"x\ny"', 2, 6), ("b", " ", 7)])
    with pytest.raises(pf.DataError, match=r"data.csv, line 5, column 'item_id': the id is miss"):
        prepared(file, tmp_path / "store")
    file.write_text("user_id,item_id\na,1\nb\n")
    with pytest.raises(pf.DataError, match=r"cannot be read \(.*Line: 3.*data.csv"):
        prepared(file, tmp_path / "store")
    write_text(tmp_path / "e.csv", [(1, 2)], "item_id,user_id")
    with pytest.raises(pf.DataError, match=r"e.csv: the columns are \['item_id', 'user_id'\], not"):
        prepared(f"{tmp_path}/*.csv", tmp_path / "store")
    file = write_text(tmp_path / "f.csv", [("a", 1, "2020-01-01"), ("a", 1, "2020-01-01T25:00")])
    with pytest.raises(pf.DataError, match=r"f.csv, line 3, column 'timestamp': timestamp '2020"):
        prepared(file, tmp_path / "store")


def test_bad_arguments(tmp_path):
    file = write_text(tmp_path / "data.csv", [("a", 1, 5)])
    for options in ({"parts": 0}, {"parts": True}, {"min_user": 0}, {"header": False}):
        with pytest.raises(ValueError, match=r"parts must|min_user must|header"):
            prepared(file, tmp_path / "store", **options)
    for options, word in (({"memory": "much"}, "memory must"), ({"threads": 0}, "threads must")):
        with pytest.raises(ValueError, match=word):
            pf.prepare(file, tmp_path / "store", **options)
    with pytest.raises(FileNotFoundError, match="no file fits it"):
        prepared(f"{tmp_path}/*.parquet", tmp_path / "store")
    (tmp_path / "data.jsonl").write_text("{}\n")
    with pytest.raises(pf.DataError, match=r"data.jsonl: prepare reads Parquet and"):
        prepared(tmp_path / "data.jsonl", tmp_path / "store")
    truths = write_text(tmp_path / "truths.csv", [("True", 1, 5), ("false", 2, 6)])
    with pytest.raises(pf.DataError, match=r"truths.csv, column 'user_id': all ids are true or"):
        prepared(truths, tmp_path / "store")
    with pytest.raises(pf.DataError, match="'user_id' is given as user and as item"):
        prepared(file, tmp_path / "store", item="user_id")
    with pytest.raises(pf.DataError, match="no record is left with min_user=2"):
        prepared(file, tmp_path / "store", min_user=2)
    assert not (tmp_path / "store").exists()


def test_what_lies_there(tmp_path, store):
    file = tmp_path / "data.parquet"
    before = pf.Interactions.from_store(store)
    prepared(file, store, min_user=4)  # the maps that are open stay as they were
    assert pf.Interactions.from_store(store).n_records < before.n_records == N
    assert before.fingerprint() == pf.Interactions.from_file(file).fingerprint()
    (store / "notes.txt").write_text("mine")
    with pytest.raises(pf.CheckpointError, match="holds files that no saved store consists of"):
        prepared(file, store)
    with pytest.raises(pf.DataError, match=f"no store, for it has no {CARD}"):
        pf.Interactions.from_store(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such store"):
        pf.Interactions.from_store(tmp_path / "nowhere")


def truncate(file):
    file.write_bytes(file.read_bytes()[:-4])


DAMAGE = {
    "truncated": ("part-00001.items.npy", truncate),
    "empty": ("part-00001.timestamps.npy", lambda file: file.write_bytes(b"")),
    "absent": ("part-00002.indptr.npy", lambda file: file.unlink()),
    "another type": ("part-00001.items.npy", lambda file: np.save(file, np.zeros(3))),
    "descending": ("part-00001.user_ids.npy", lambda file: np.save(file, np.load(file)[::-1])),
    "shifted": ("part-00000.indptr.npy", lambda file: np.save(file, np.load(file) + 1)),
    "ids lost": (
        "item_ids.parquet",
        lambda file: write_ids(file.with_name("item_ids"), np.array(["a"]), "str"),
    ),
    "no Parquet": ("item_ids.parquet", truncate),
    "no JSON": (CARD, truncate),
    "another version": (CARD, lambda file: change(file, version=2)),
    "another format": (CARD, lambda file: change(file, format="x")),
    "no parts": (CARD, lambda file: change(file, parts=[])),
    "ids of no kind": (CARD, lambda file: change(file, user_ids="float")),
    "negative": (CARD, lambda file: change(file, n_items=-1)),
}


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused(store, name):
    file, damage = DAMAGE[name]
    damage(store / file)
    with pytest.raises(pf.DataError, match=file):
        pf.Interactions.from_store(store)


def test_values_that_do_not_fit_are_refused(store):
    np.save(store / "part-00000.items.npy", np.load(store / "part-00000.items.npy") + 100)
    with pytest.raises(pf.DataError, match=r"items must lie in 0\.\."):
        pf.Interactions.from_store(store, part=(0, 3))


def test_times_are_checked_block_by_block(monkeypatch):
    monkeypatch.setattr("pdrec_fast.data.ordering._BLOCK", 3)
    times = np.array([5.0, 6, 7, 7, 1, 2, 0, 9])
    check_times(times, np.array([0, 0, 4, 6, 6, 8, 8]))
    with pytest.raises(pf.DataError, match="record 6 does"):
        check_times(times, np.array([0, 4, 8]))
    with pytest.raises(pf.DataError, match="record 4 does"):
        check_times(times, np.array([0, 8]))
    with pytest.raises(pf.DataError, match="finite"):
        check_times(np.array([1.0, 2, 3, 4, np.nan]), np.array([0, 5]))


def test_commands(tmp_path, monkeypatch):
    file = write_text(tmp_path / "data.csv", zip(USERS, ITEMS, TIMES, strict=True))
    store = tmp_path / "store"
    words = ["prepare", "--data", str(file), "--out", str(store), "--parts", "2", "--threads", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "11 users, 12 items, 60 records in 2 parts" in done.output
    for option in ("--min-rating", "--limit-users", "--rating-column"):
        refused = CliRunner().invoke(app, [*words, option, "3"])
        assert "prepare does not offer it" in str(refused.exception)
    assert pf.Interactions.from_file(store).n_records == N
    for options in ({"min_user": 2}, {"user": "u"}, {"header": False}):
        with pytest.raises(ValueError, match="opened as it was prepared"):
            pf.Interactions.from_file(store, **options)


def test_odd_ids_are_told(tmp_path):
    rows = [("1.0", "NULL", 5), ("2", " a", 6), ("3.0", " nan ", 6), ("4", "a", 7)]
    file = write_text(tmp_path / "data.csv", rows)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        prepared(file, tmp_path / "store")
    user, missing, spaces = (str(one.message) for one in told)
    assert "column 'user_id': ids of 2 records are written as decimals" in user
    assert "'1.0' is 1" in user
    assert "the id 'NULL' reads like a missing one; 2 records" in missing
    assert "the id ' a' has spaces at an end, as 2 records have" in spaces
