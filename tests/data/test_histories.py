from itertools import pairwise

import numpy as np
import pytest

from pdrec_fast.data import Histories, Holdout

ITEMS = np.array([3, 1, 4, 1, 5, 9, 2, 6], dtype=np.int32)
TIMES = np.arange(8.0) * 10


def make(starts, stops, timestamps=TIMES):
    users = np.arange(len(starts)) + 7
    return Histories(ITEMS, timestamps, users, np.array(starts), np.array(stops), n_items=10)


def test_packed_gathers_views_in_batch_order():
    indptr, items, times = make([5, 0, 3, 2], [8, 2, 3, 3]).packed()
    assert indptr.tolist() == [0, 3, 5, 5, 6]
    assert items.tolist() == [9, 2, 6, 3, 1, 4]
    assert times.tolist() == [50, 60, 70, 0, 10, 20]
    assert (indptr.dtype, items.dtype, times.dtype) == (np.int64, np.int32, np.float64)


def test_only_keeps_order_users_and_times():
    histories = make([5, 0, 3, 2, 1], [8, 2, 3, 3, 2])
    kept = np.ones(10, dtype=bool)
    kept[[1, 2]] = False
    indptr, items, times = histories.only(kept).packed()
    assert indptr.tolist() == [0, 2, 3, 3, 4, 4]
    assert items.tolist() == [9, 6, 3, 4]
    assert times.tolist() == [50, 70, 0, 20]
    assert histories.only(kept).users.tolist() == histories.users.tolist()
    assert make([1], [3], timestamps=None).only(kept).timestamps is None
    assert make([], []).only(kept).lengths.tolist() == []


def test_packed_is_a_copy_and_the_batch_is_not():
    histories = make([0, 4], [4, 8])
    assert histories.items is ITEMS
    assert not np.shares_memory(histories.packed()[1], ITEMS)


@pytest.mark.parametrize(("starts", "stops"), [([], []), ([2], [2]), ([8], [8])])
def test_packed_without_records(starts, stops):
    indptr, items, times = make(starts, stops).packed()
    assert indptr.tolist() == [0] * (len(starts) + 1)
    assert (len(items), len(times)) == (0, 0)
    assert (indptr.dtype, items.dtype) == (np.int64, np.int32)


def test_packed_without_timestamps():
    assert make([1], [3], timestamps=None).packed()[2] is None


def test_packed_agrees_with_slices_on_random_batches():
    rng = np.random.default_rng(0)
    items = rng.integers(0, 50, 301).astype(np.int32)
    starts = rng.integers(0, 301, 57)
    stops = np.minimum(starts + rng.integers(0, 9, 57), 301)
    histories = Histories(items, None, np.arange(57), starts, stops, 50)
    indptr, packed, _ = histories[::-2].packed()
    expected = [items[a:b].tolist() for a, b in zip(starts[::-2], stops[::-2], strict=True)]
    got = [packed[a:b].tolist() for a, b in pairwise(indptr)]
    assert got == expected


@pytest.mark.parametrize(
    ("index", "users"),
    [
        (slice(1, 3), [8, 9]),
        (np.array([2, 0, 2]), [9, 7, 9]),
        ([-1], [9]),
        ([], []),
        (np.array([True, False, True]), [7, 9]),
    ],
)
def test_indexing_the_batch(index, users):
    chosen = make([0, 2, 5], [2, 5, 6])[index]
    assert chosen.users.tolist() == users
    assert chosen.lengths.tolist() == [{7: 2, 8: 3, 9: 1}[user] for user in users]
    assert len(chosen) == len(users)


def test_one_position_is_not_a_batch():
    with pytest.raises(TypeError, match=r"histories\[b : b \+ 1\]"):
        make([0], [1])[0]


@pytest.mark.parametrize(("starts", "stops"), [([-1], [2]), ([0], [9]), ([3], [2])])
def test_bounds_are_checked(starts, stops):
    with pytest.raises(ValueError, match="starts <= stops <= 8"):
        make(starts, stops)


def test_lengths_of_arrays_are_checked():
    with pytest.raises(ValueError, match="equally long, got 1, 1 and 2"):
        make([0], [1, 2])
    with pytest.raises(ValueError, match="3 values for 8 items"):
        make([0], [1], timestamps=TIMES[:3])
    with pytest.raises(ValueError, match="one-dimensional"):
        make([[0]], [[1]])


def test_holdout_holds_one_target_per_history():
    holdout = Holdout(make([0, 4], [3, 7]), np.array([1, 6]))
    assert (len(holdout), holdout.targets.dtype) == (2, np.int32)
    assert holdout.users.tolist() == [7, 8]
    with pytest.raises(ValueError, match="each of 2 histories"):
        Holdout(make([0, 4], [3, 7]), np.array([1]))
