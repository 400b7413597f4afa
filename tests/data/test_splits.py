import numpy as np
import pytest

from pdrec_fast.data import Interactions, global_time_split, leave_one_out
from pdrec_fast.errors import DataError

SEQUENCES = {  # user: (item, time) in order
    "a": [(1, 1), (2, 2), (3, 5), (4, 6), (5, 9)],
    "b": [(2, 1), (3, 2)],
    "c": [(5, 3), (1, 5), (1, 8)],
    "d": [(4, 8)],
    "e": [(3, 4), (2, 8), (1, 8)],
}


@pytest.fixture
def data():
    rows = [(user, *record) for user, records in SEQUENCES.items() for record in records]
    return Interactions.from_arrays(*(list(column) for column in zip(*rows, strict=True)))


def cases(split, part):
    """Raw user -> (history as raw items, target as raw item)."""
    data, holdout = split.data, getattr(split, part)
    indptr, items, _ = holdout.histories.packed()
    assert holdout.targets.dtype == np.int32
    return {
        data.user_ids[user]: (data.item_ids[items[a:b]].tolist(), data.item_ids[target])
        for user, a, b, target in zip(
            holdout.users, indptr[:-1], indptr[1:], holdout.targets, strict=True
        )
    }


def training(split):
    train = split.train
    return {
        user: train.item_ids[train.items[a:b]].tolist()
        for user, a, b in zip(train.user_ids, train.indptr[:-1], train.indptr[1:], strict=True)
    }


class TestLeaveOneOut:
    def test_parts(self, data):
        split = leave_one_out(data)
        assert cases(split, "test") == {"a": ([1, 2, 3, 4], 5), "c": ([5, 1], 1), "e": ([3, 2], 1)}
        assert cases(split, "valid") == {"a": ([1, 2, 3], 4), "c": ([5], 1), "e": ([3], 2)}
        assert training(split) == {"a": [1, 2, 3], "b": [2, 3], "c": [5], "d": [4], "e": [3]}
        assert split.train.timestamps.tolist() == [1, 2, 5, 1, 2, 3, 8, 4]

    def test_index_space_and_arrays_are_shared(self, data):
        split = leave_one_out(data)
        assert split.data is data
        assert split.train.n_items == split.test.histories.n_items == 5
        assert split.test.histories.items is data.items

    def test_report_names_the_users_left_out(self, data):
        report = leave_one_out(data).report
        assert (report.n_train, report.n_valid, report.n_test) == (8, 3, 3)
        assert list(report.left_out.values()) == [("b", "d")]
        lines = str(report).splitlines()
        assert lines[0] == "leave-one-out split of 5 users"
        assert lines[-1].endswith("fewer than 3 records (kept in training): 2 users ('b', 'd')")

    def test_report_shows_a_few_ids_only(self):
        users = [0, 0, 0, *range(1, 8)]
        report = leave_one_out(Interactions.from_arrays(users, users, range(10))).report
        assert str(report).endswith("7 users (1, 2, 3, 4, 5, ...)")

    def test_report_without_users_left_out(self):
        split = leave_one_out(Interactions.from_arrays([1] * 3, [1, 2, 3], [1, 2, 3]))
        assert str(split.report).splitlines()[1:] == [
            "  training records: 1",
            "  validation cases: 1",
            "  test cases: 1",
        ]

    def test_min_length(self, data):
        split = leave_one_out(data, min_length=4)
        assert list(cases(split, "test")) == ["a"]
        assert training(split)["c"] == [5, 1, 1]

    def test_min_length_leaves_a_training_item(self, data):
        with pytest.raises(ValueError, match="min_length must be at least 3, got 2"):
            leave_one_out(data, min_length=2)

    def test_nothing_to_evaluate(self, data):
        with pytest.raises(DataError, match="nothing to evaluate: none of 5 users has 6 records"):
            leave_one_out(data, min_length=6)

    def test_without_timestamps(self):
        with pytest.warns(UserWarning, match="no timestamps"):
            data = Interactions.from_arrays([1, 1, 1], [3, 1, 2])
        split = leave_one_out(data)
        assert split.train.timestamps is None
        assert cases(split, "test") == {1: ([3, 1], 2)}


class TestGlobalTime:
    def test_parts(self, data):
        split = global_time_split(data, valid_from=5, test_from=8)
        assert training(split) == {"a": [1, 2], "b": [2, 3], "c": [5], "d": [], "e": [3]}
        assert cases(split, "valid") == {"a": ([1, 2], 3), "c": ([5], 1)}
        assert cases(split, "test") == {"a": ([1, 2, 3, 4], 5), "c": ([5, 1], 1), "e": ([3], 2)}

    def test_nothing_of_the_future_is_known(self, data):
        split = global_time_split(data, valid_from=5, test_from=8)
        assert split.train.timestamps.max() < 5
        assert split.valid.histories.packed()[2].max() < 5
        assert split.test.histories.packed()[2].max() < 8

    def test_report_names_users_without_history(self, data):
        report = global_time_split(data, valid_from=4, test_from=6).report
        assert report.left_out == {
            "no validation case, no record before valid_from": ("e",),
            "no test case, no record before test_from": ("d",),
        }

    def test_order_of_times(self, data):
        with pytest.raises(ValueError, match="got 8 and 8"):
            global_time_split(data, 8, 8)
        with pytest.raises(ValueError, match="test_from=nan is neither a number"):
            global_time_split(data, 1, float("nan"))

    @pytest.mark.parametrize(
        ("times", "part"), [((20, 30), "validation"), ((0, 5), "validation"), ((5, 30), "test")]
    )
    def test_nothing_to_evaluate(self, data, times, part):
        with pytest.raises(DataError, match=rf"no {part} case .* from 1\.0 to 9\.0"):
            global_time_split(data, *times)

    def test_needs_timestamps(self):
        with pytest.warns(UserWarning, match="no timestamps"):
            data = Interactions.from_arrays([1, 1, 1], [3, 1, 2])
        with pytest.raises(DataError, match="no timestamps to split by; use leave_one_out"):
            global_time_split(data, 1, 2)
