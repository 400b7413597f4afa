import copy
import dataclasses
import json
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdrec_fast.data import Interactions, catalogue
from pdrec_fast.data.catalogue import json_of
from pdrec_fast.data.interactions import read_only
from pdrec_fast.errors import DataError

# user: items in time order      1: 10 20 10   2: 20 30   3: 20
USERS = [1, 2, 1, 3, 1, 2]
ITEMS = [10, 20, 20, 20, 10, 30]
TIMES = [1, 1, 2, 2, 3, 4]


def make(**options):
    return Interactions.from_arrays(USERS, ITEMS, TIMES, **options)


def raw(data):
    """(raw user, raw item) of each record, in order."""
    users = data.user_ids[data.record_users].tolist()
    return list(zip(users, data.item_ids[data.items].tolist(), strict=True))


def test_structure():
    data = make()
    assert data.indptr.tolist() == [0, 3, 5, 6]
    assert data.items.tolist() == [0, 1, 0, 1, 2, 1]
    assert data.timestamps.tolist() == [1, 2, 3, 1, 4, 2]
    dtypes = (data.indptr.dtype, data.items.dtype, data.timestamps.dtype)
    assert dtypes == (np.int64, np.int32, np.float64)
    assert (data.n_users, data.n_items, data.n_records) == (3, 3, 6)
    assert data.record_users.tolist() == [0, 0, 0, 1, 1, 2]
    assert repr(data) == "Interactions(3 users, 3 items, 6 records, timestamps)"


def test_summary():
    assert make().summary() == {"users": 3, "items": 3, "records": 6, "density": 6 / 9}


@pytest.mark.parametrize(
    ("repeats", "first_user"), [("keep", [10, 20, 10]), ("first", [10, 20]), ("last", [20, 10])]
)
def test_repeats(repeats, first_user):
    assert raw(make(repeats=repeats)) == [
        *[(1, item) for item in first_user],
        *[(2, 20), (2, 30), (3, 20)],
    ]


def test_minima_hold_together():
    # Item 30 has one record; without it user 2 has one record, too few; item 20 still has one of
    # user 1 and one of user 3, who goes for having one record alone; then item 20 goes as well.
    data = make(min_user=2, min_item=2)
    assert raw(data) == [(1, 10), (1, 10)]
    assert (data.n_users, data.n_items) == (1, 1)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6], [6, 4, 2, 0, 5, 3, 1]])
def test_copies_are_counted_in_a_warning(order):
    # Copies are the second (1, 10, 1) and the second (2, 10, 1); others differ in time or user.
    rows = [(1, 10, 1), (1, 10, 1), (1, 10, 2), (1, 20, 2), (2, 10, 1), (2, 10, 1), (3, 10, 1)]
    columns = [list(column) for column in zip(*(rows[i] for i in order), strict=True)]
    with pytest.warns(UserWarning, match=r"2 of 7 records in the arrays .* --repeats first"):
        assert Interactions.from_arrays(*columns).n_records == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Interactions.from_arrays(*columns, repeats="first").n_records == 4
        assert Interactions.from_arrays([1, 2, 1], [5, 5, 5], [3, 3, 4]).n_records == 3


def test_repeats_are_removed_before_the_minima():
    assert raw(make(min_item=2, repeats="first")) == [(1, 20), (2, 20), (3, 20)]


def test_nothing_left():
    with pytest.raises(DataError, match="the arrays: none of 6 records is left with min_user=4"):
        make(min_user=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_user": 0}, "min_user must be an integer of at least 1, got 0"),
        ({"min_item": 1.5}, "min_item must be an integer of at least 1, got 1.5"),
        ({"repeats": "all"}, r"repeats must be one of \('keep', 'first', 'last'\), got 'all'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.filterwarnings("ignore:.* repeat the one before")
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)), min_size=1),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["keep", "first", "last"]),
)
def test_agrees_with_a_plain_implementation(rows, min_user, min_item, repeats):
    kept = sorted(rows, key=lambda row: (row[0], row[2]))
    if repeats != "keep":
        step = 1 if repeats == "first" else -1
        chosen = {}
        for row in kept[::step]:
            chosen.setdefault(row[:2], row)
        kept = list(chosen.values())[::step]
    while True:
        users, items = [row[0] for row in kept], [row[1] for row in kept]
        enough = [
            row
            for row in kept
            if users.count(row[0]) >= min_user and items.count(row[1]) >= min_item
        ]
        if enough == kept:
            break
        kept = enough
    arguments = [list(column) for column in zip(*rows, strict=True)]
    options = {"min_user": min_user, "min_item": min_item, "repeats": repeats}
    if not kept:
        with pytest.raises(DataError):
            Interactions.from_arrays(*arguments, **options)
        return
    data = Interactions.from_arrays(*arguments, **options)
    assert raw(data) == [row[:2] for row in kept]
    assert data.timestamps.tolist() == [row[2] for row in kept]


def test_index_of_raw_ids():
    data = make()
    assert data.user_index([3, "1"]).tolist() == [2, 0]
    assert data.user_index("2").tolist() == [1]
    assert data.item_index(np.array([30, 10])).tolist() == [2, 0]
    assert data.item_index([]).tolist() == []
    assert data.user_index(3).dtype == np.int64


def test_index_of_string_ids():
    data = Interactions.from_arrays(["b", "17", "a"], [1, 1, 1], [1, 1, 1])
    assert data.user_index(["a", 17]).tolist() == [1, 0]


def test_unknown_ids_are_named():
    with pytest.raises(DataError, match=r"2 unknown user id\(s\): '7', 'x'; "):
        make().user_index([7, 1, "x"])
    with pytest.raises(DataError, match=r"7 unknown item id\(s\): '0', '1', '2', '3', '4', \.\.\."):
        make().item_index(range(7))


def test_unique_items():
    data = Interactions.from_arrays([1, 1, 1, 2, 2], [9, 3, 9, 5, 3], [1, 2, 3, 1, 2])
    unique = data.unique_items()
    assert (unique.indptr.tolist(), unique.values.tolist()) == ([0, 2, 4], [0, 2, 0, 1])
    assert (unique.indptr.dtype, unique.values.dtype) == (np.int64, np.int32)


def test_unique_items_are_computed_once_and_never_for_another():
    data = Interactions.from_arrays([1, 1, 2], [9, 9, 3], [1, 2, 1])
    assert data.unique_items() is data.unique_items()
    with pytest.raises(ValueError, match="read-only"):
        data.unique_items().values[0] = 1
    other = dataclasses.replace(data, items=1 - data.items)
    assert other.unique_items().values.tolist() == [0, 1]
    assert other.fingerprint() != data.fingerprint()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
def test_copies_are_equal_and_read_only(copied):
    data = Interactions.from_arrays(["a", "a", "b"], [9, 8, 8], [1, 2, 1])
    expected = data.unique_items().values.tolist()
    found = copied(data)
    assert found.fingerprint() == data.fingerprint()
    assert found.unique_items().values.tolist() == expected
    with pytest.raises(ValueError, match="read-only"):
        found.items[0] = 1


def test_unique_items_of_users_without_records():
    data = Interactions([0, 0, 2, 2], [1, 1], None, ["a", "b", "c"], [5, 6])
    unique = data.unique_items()
    assert (unique.indptr.tolist(), unique.values.tolist()) == ([0, 0, 1, 1], [1])


def test_histories_are_whole_sequences():
    data = make()
    histories = data.histories()
    assert histories.items is data.items
    assert histories.packed()[0].tolist() == data.indptr.tolist()
    indptr, items, times = data.histories([2, 0]).packed()
    assert indptr.tolist() == [0, 1, 4]
    assert items.tolist() == [1, 0, 1, 0]
    assert times.tolist() == [2, 1, 2, 3]
    assert len(data.histories([])) == 0


@pytest.mark.parametrize("user", [-1, 3, 2**63])
def test_histories_of_unknown_users(user):
    with pytest.raises(ValueError, match=rf"users must lie in 0\.\.2, got {user}"):
        make().histories([user])


@pytest.mark.parametrize("user", [0.5, "1", 2**64, True, None])
def test_histories_of_what_is_no_index(user):
    with pytest.raises(ValueError, match=rf"users must be whole numbers in 0\.\.2, got {user!r}"):
        make().histories([user])


def test_fingerprint_sees_every_part():
    rebuilt = make()
    assert rebuilt.fingerprint() == make().fingerprint()
    assert len(rebuilt.fingerprint()) == 16
    with pytest.warns(UserWarning, match="no timestamps"):
        timeless = Interactions.from_arrays(USERS, ITEMS)
    others = [
        timeless,
        Interactions.from_arrays(USERS, ITEMS, [1, 1, 2, 2, 3, 5]),
        Interactions.from_arrays([1, 2, 1, 4, 1, 2], ITEMS, TIMES),
        Interactions.from_arrays(USERS, [10, 20, 20, 20, 10, 31], TIMES),
        Interactions.from_arrays(USERS, [10, 20, 30, 20, 10, 30], TIMES),
    ]
    assert len({data.fingerprint() for data in [rebuilt, *others]}) == 6


@pytest.mark.parametrize("ids", [[], [5], [-3, 2**40, 7, 0], ["a", 'b"c', "ä", "7"]])
def test_ids_in_pieces_are_those_in_one(ids, monkeypatch):
    monkeypatch.setattr(catalogue, "_IDS_PER_PIECE", 3)
    array = np.array(ids, dtype=object if ids and isinstance(ids[0], str) else np.int64)
    assert b"".join(json_of(array)).decode() == json.dumps(ids)
    assert b"".join(json_of(array, as_text=True)).decode() == json.dumps(list(map(str, ids)))


def test_read_only_arrays_are_taken_as_they_are():
    arrays = read_only(indptr=np.array([0, 2]), items=np.array([0, 1], np.int32), timestamps=None)
    data = Interactions(**arrays, user_ids=[1], item_ids=[1, 2])
    assert data.indptr is arrays["indptr"]
    assert data.items is arrays["items"]


def test_arrays_are_read_only_and_the_callers_are_not():
    items = np.array([0, 1], dtype=np.int32)
    data = Interactions([0, 2], items, [1.0, 2.0], [1], [1, 2])
    for array in (data.indptr, data.items, data.timestamps, data.user_ids, data.item_ids):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    items[0] = 1
    assert items.tolist() == [1, 1]
    assert data.items.tolist() == [0, 1]


def test_views_of_the_callers_arrays_are_copied():
    class Tagged(np.ndarray):
        pass

    items = np.array([0, 1], dtype=np.int32)
    data = Interactions([0, 2], items.view(Tagged), None, [1], [1, 2])
    items[0] = 1
    assert data.items.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("indptr", "items", "times", "message"),
    [
        ([0, 2], [0, 0], None, "indptr has 2 values for 2 user ids"),
        ([0, 1, 3], [0, 0], None, "from 0 to the number of records, 2"),
        ([1, 1, 2], [0, 0], None, "from 0 to the number of records, 2"),
        ([0, 3, 2], [0, 0], None, "indptr must not decrease"),
        ([0, 1, 2], [0, 2], None, r"items must lie in 0\.\.1"),
        ([0, 1, 2], [0, -1], None, r"items must lie in 0\.\.1"),
        ([0, 1, 2], [0, 1], [1.0], "1 timestamps for 2 records"),
        ([0, 1, 2], [0, 1], [1.0, np.nan], "timestamps must be finite"),
        ([0, 2, 2], [0, 1], [2.0, 1.0], "within a user; record 1 does"),
    ],
)
def test_arrays_that_do_not_fit_together(indptr, items, times, message):
    with pytest.raises(DataError, match=message):
        Interactions(indptr, items, times, [1, 2], [1, 2])


def test_time_may_go_back_between_users():
    data = Interactions([0, 1, 1, 2], [0, 1], [2.0, 1.0], [1, 2, 3], [1, 2])
    assert data.timestamps.tolist() == [2, 1]
