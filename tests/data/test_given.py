"""A split of three given parts."""

import numpy as np
import pytest

import pdrec_fast as pf
from pdrec_fast import DataError, Interactions, given_split, leave_one_out, synthetic


def part(*records):
    """Of (user, item, time)."""
    return Interactions.from_arrays(*zip(*records, strict=True))


TRAIN = part(("a", "x", 1), ("a", "y", 2), ("b", "x", 1), ("b", "x", 3), ("d", "z", 1))
VALID = part(("a", "z", 3), ("a", "x", 4), ("b", "y", 5), ("b", "y", 6), ("c", "x", 2))
TEST = part(("a", "v", 9), ("a", "w", 9), ("b", "y", 9), ("b", "z", 8), ("c", "y", 9))


def told(holdout, data):
    """(user, history, target) of every case, as raw ids."""
    names = data.item_ids[data.items]
    histories = holdout.histories
    return [
        (data.user_ids[user], "".join(names[start:stop]), data.item_ids[target])
        for user, start, stop, target in zip(
            histories.users, histories.starts, histories.stops, holdout.targets, strict=True
        )
    ]


def test_every_held_out_item_is_a_case_after_the_same_history():
    split = given_split(TRAIN, VALID, TEST)
    data = split.data
    assert data.user_ids.tolist() == ["a", "b", "c", "d"]
    assert data.item_ids.tolist() == ["v", "w", "x", "y", "z"]
    assert split.train.n_records == 5
    assert "".join(data.item_ids[split.train.items]) == "xyxxz"
    # x of a is in its history; y of b is held out once.
    assert told(split.valid, data) == [("a", "xy", "z"), ("b", "xx", "y")]
    # y of b came in validation; b's z is earlier than its y, by time.
    assert told(split.test, data) == [("a", "xyzx", "v"), ("a", "xyzx", "w"), ("b", "xxyy", "z")]
    assert data.timestamps is not None
    assert split.report.left_out == {
        "not evaluated, no training record": ("c",),
        "some validation records left out, of items that the user has": ("a", "b"),
        "some test records left out, of items that the user has": ("b",),
    }
    assert "given split of 4 users" in str(split.report)


def test_it_agrees_with_leave_one_out():
    data = synthetic(60, 50, seed=0)
    wanted = leave_one_out(data)
    place = np.arange(data.n_records) - data.indptr[1:][data.record_users]

    def some(chosen):
        return Interactions.from_arrays(
            data.record_users[chosen], data.items[chosen], data.timestamps[chosen]
        )

    split = given_split(some(place < -2), some(place == -2), some(place == -1))
    raw = split.data.item_ids
    for name in ("valid", "test"):
        cases, theirs = getattr(split, name), getattr(wanted, name)
        rows = {
            int(user): int(raw[item]) for user, item in zip(cases.users, cases.targets, strict=True)
        }
        repeated = 0
        for i, user in enumerate(theirs.users):
            history = data.items[theirs.histories.starts[i] : theirs.histories.stops[i]]
            if theirs.targets[i] in history:
                repeated += 1
            else:
                assert rows.pop(int(user)) == theirs.targets[i]
        assert repeated > 0
        assert not rows


def test_times_that_contradict_the_parts_are_left_aside():
    with pytest.warns(UserWarning, match="earlier than one before it"):
        split = given_split(TRAIN, part(("a", "z", 0)), TEST)
    assert split.data.timestamps is None
    assert told(split.valid, split.data) == [("a", "xy", "z")]


def test_what_is_refused():
    numbers = Interactions.from_arrays([1, 2], ["x", "y"], [0, 1])
    with pytest.raises(DataError, match="user ids are text in the training part, numbers in the"):
        given_split(TRAIN, numbers, TEST)
    with pytest.raises(DataError, match="no record of the validation part"):
        given_split(TRAIN, part(("c", "z", 9)), TEST)
    with pytest.raises(DataError, match="no record of the test part"):
        given_split(TRAIN, VALID, part(("a", "y", 9)))
    mixed = pf.mix_domains(synthetic(20, 30), synthetic(20, 30, seed=1))
    with pytest.raises(ValueError, match="the test part has two domains"):
        given_split(TRAIN, VALID, mixed)
