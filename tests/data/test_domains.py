"""Two domains as one data set: order, ids, splits, and what evaluation makes of them."""

import itertools

import numpy as np
import pytest
import torch

from pdrec_fast.data import Interactions, global_time_split, leave_one_out, mix_domains
from pdrec_fast.errors import DataError
from pdrec_fast.evaluation import (
    Evaluator,
    available_negatives,
    rank_among,
    rank_in_corpus,
    sample_negatives,
)

TARGET = {"a": [(1, 10), (2, 20), (3, 30), (4, 40)], "b": [(5, 1), (1, 2)]}
SOURCE = {"a": [(1, 5), (9, 20), (1, 35), (2, 50)], "b": [(9, 3)], "c": [(2, 7), (1, 8)]}


def interactions(records):
    rows = [(user, *record) for user, of_user in records.items() for record in of_user]
    return Interactions.from_arrays(*(list(column) for column in zip(*rows, strict=True)))


def two_domains(data, in_target):
    """The target and source parts of ``data`` by a mask over its items, with equal raw ids."""
    parts = []
    for mask in (in_target, ~in_target):
        kept = mask[data.items]
        items = (np.cumsum(mask) - 1)[data.items[kept]]
        times = data.timestamps[kept]
        parts.append(Interactions.from_arrays(data.user_ids[data.record_users[kept]], items, times))
    return parts


@pytest.fixture
def mixed():
    return mix_domains(interactions(TARGET), interactions(SOURCE))


def sequence(data, user):
    number = data.user_index(user)[0]
    records = slice(*data.indptr[number : number + 2])
    return data.item_ids[data.items[records]].tolist(), data.timestamps[records].tolist()


def cases(holdout, data):
    indptr, items, _ = holdout.histories.packed()
    return {
        data.user_ids[user]: (data.item_ids[items[a:b]].tolist(), data.item_ids[target])
        for user, a, b, target in zip(
            holdout.users, indptr[:-1], indptr[1:], holdout.targets, strict=True
        )
    }


class TestMix:
    def test_records_stand_in_one_time_order_the_targets_first_where_times_are_equal(self, mixed):
        assert mixed.user_ids.tolist() == ["a", "b", "c"]
        assert sequence(mixed, "a") == (
            ["source:1", "1", "2", "source:9", "3", "source:1", "4", "source:2"],
            [5, 10, 20, 20, 30, 35, 40, 50],
        )
        assert sequence(mixed, "b") == (["5", "1", "source:9"], [1, 2, 3])
        assert sequence(mixed, "c") == (["source:2", "source:1"], [7, 8])

    def test_the_same_raw_id_in_both_domains_is_two_items(self, mixed):
        assert mixed.item_ids.tolist() == [*"12345", "source:1", "source:2", "source:9"]
        assert mixed.target_items.tolist() == [True] * 5 + [False] * 3
        assert (mixed.n_items, mixed.n_targets) == (8, 5)
        assert repr(mixed) == (
            "Interactions(3 users, 8 items (5 of the target domain), 13 records, timestamps)"
        )

    def test_users_are_the_same_whether_their_ids_are_text_or_numbers(self):
        target = Interactions.from_arrays([2, 10, 3], [1, 1, 1], [1, 1, 1])
        source = Interactions.from_arrays(["10", "x"], [7, 7], [2, 1])
        mixed = mix_domains(target, source)
        assert mixed.user_ids.tolist() == ["10", "2", "3", "x"]
        assert sequence(mixed, 10) == (["1", "source:7"], [1, 2])
        assert sequence(mixed, "x") == (["source:7"], [1])
        assert sequence(mixed, 2) == (["1"], [1])

    def test_numbers_stay_numbers_in_their_order(self):
        target = Interactions.from_arrays([9, 10], [1, 1], [1, 1])
        mixed = mix_domains(target, Interactions.from_arrays([10, 2], [5, 5], [0, 1]))
        assert mixed.user_ids.dtype == np.int64
        assert mixed.user_ids.tolist() == [2, 9, 10]
        assert sequence(mixed, 10) == (["source:5", "1"], [0, 1])

    def test_fingerprint_tells_the_domains_apart(self, mixed):
        target, source = interactions(TARGET), interactions(SOURCE)
        assert mixed.fingerprint() == mix_domains(target, source).fingerprint()
        assert mixed.fingerprint() != mix_domains(source, target).fingerprint()
        plain = Interactions(
            mixed.indptr, mixed.items, mixed.timestamps, mixed.user_ids, mixed.item_ids
        )
        assert plain.fingerprint() != mixed.fingerprint()

    @pytest.mark.filterwarnings("ignore:no timestamps")
    @pytest.mark.parametrize("which", [0, 1])
    def test_without_timestamps_there_is_no_common_order(self, which):
        pair = [interactions(TARGET), interactions(SOURCE)]
        pair[which] = Interactions.from_arrays(["a"] * 3, [1, 2, 3])
        name = ("target", "source")[which]
        with pytest.raises(
            DataError, match=f"the {name} domain has no timestamps.*--timestamp-column"
        ):
            mix_domains(*pair)

    def test_strangers_are_refused(self):
        source = Interactions.from_arrays(["u1"], [1], [20])
        with pytest.raises(
            DataError, match=r"no user occurs in both .* has a, the source domain u1\)"
        ):
            mix_domains(interactions(TARGET), source)

    def test_an_id_that_looks_like_the_sources_is_refused(self):
        target = Interactions.from_arrays(["a", "a"], ["source:1", "x"], [1, 9])
        with pytest.raises(DataError, match=r"item 'source:1' .* rename"):
            mix_domains(target, interactions(SOURCE))

    def test_a_mixture_is_not_mixed_again(self, mixed):
        with pytest.raises(ValueError, match="the source domain is already a mixture"):
            mix_domains(interactions(TARGET), mixed)

    def test_times_in_different_units_are_noticed(self):
        source = Interactions.from_arrays(["a"], [1], [5000])
        with pytest.warns(UserWarning, match=r"never overlap .* 1\.0 to 40\.0.* 5000\.0"):
            mix_domains(interactions(TARGET), source)

    def test_target_items_must_fit(self, mixed):
        arrays = mixed.indptr, mixed.items, mixed.timestamps, mixed.user_ids, mixed.item_ids
        with pytest.raises(DataError, match="target_items has 2 values, not 8"):
            Interactions(*arrays, np.array([True, False]))


class TestSplit:
    def test_leave_one_out_holds_out_the_last_items_of_the_target(self, mixed):
        split = leave_one_out(mixed)
        known = ["source:1", "1", "2", "source:9"]
        assert cases(split.valid, mixed) == {"a": (known, "3")}
        assert cases(split.test, mixed) == {"a": ([*known, "3", "source:1"], "4")}

    def test_training_ends_before_the_validation_target(self, mixed):
        train = leave_one_out(mixed).train
        assert sequence(train, "a")[0] == ["source:1", "1", "2", "source:9"]
        assert sequence(train, "b")[0] == ["5", "1", "source:9"]
        assert sequence(train, "c")[0] == ["source:2", "source:1"]
        assert train.target_items.tolist() == mixed.target_items.tolist()

    def test_report_counts_records_of_the_target(self, mixed):
        report = leave_one_out(mixed).report
        assert str(report).splitlines()[-1].strip() == (
            "not evaluated, fewer than 3 records of the target domain (kept in training): "
            "2 users ('b', 'c')"
        )
        with pytest.raises(DataError, match="none of 3 users has 5 records of the target domain"):
            leave_one_out(mixed, min_length=5)

    def test_global_time_takes_the_first_target_of_each_period(self, mixed):
        split = global_time_split(mixed, 8, 35)
        # The case at 35 is the source's: the target's next is at 40. Only what is before 35 is
        # known then. User c has source records at 8 and none of the target.
        assert cases(split.valid, mixed) == {"a": (["source:1"], "1")}
        known = ["source:1", "1", "2", "source:9", "3"]
        assert cases(split.test, mixed) == {"a": (known, "4")}
        assert sequence(split.train, "a")[0] == ["source:1"]

    def test_a_split_of_one_domain_ignores_a_mask_of_all_items(self):
        data = interactions(TARGET)
        arrays = data.indptr, data.items, data.timestamps, data.user_ids, data.item_ids
        every = Interactions(*arrays, np.ones(data.n_items, bool))
        for make in (leave_one_out, lambda of: global_time_split(of, 20, 30)):
            plain, masked = make(data), make(every)
            for part in ("valid", "test"):
                assert cases(getattr(plain, part), data) == cases(getattr(masked, part), data)
            np.testing.assert_array_equal(plain.train.items, masked.train.items)


class Table:
    def __init__(self, scores):
        self.table = torch.as_tensor(scores)

    def scores(self, histories, items=None):
        rows = self.table[torch.from_numpy(histories.users)]
        return rows if items is None else rows.gather(1, items)


@pytest.fixture(scope="module")
def random():
    rng = np.random.default_rng(4)
    users, items = rng.integers(0, 40, 1500), rng.integers(0, 300, 1500)
    data = Interactions.from_arrays(users, items, rng.permutation(1500))
    # Interleaved, not the target's first: no code may depend on their order.
    mask = rng.random(data.n_items) < 0.6
    arrays = data.indptr, data.items, data.timestamps, data.user_ids, data.item_ids
    return leave_one_out(Interactions(*arrays, mask))


class TestCandidates:
    def test_by_hand(self, mixed):
        split = leave_one_out(mixed)
        assert available_negatives(mixed).tolist() == [1, 3, 5]
        for name in ("valid", "test"):
            holdout = getattr(split, name)
            negatives = sample_negatives(holdout, mixed, seed=0, name=name, n_negatives=1)
            assert mixed.item_ids[negatives].tolist() == [["5"]]
            with pytest.raises(ValueError, match=r"corpus has 5 items .* only 1 of them"):
                sample_negatives(holdout, mixed, seed=0, name=name, n_negatives=2)
        # Sources score highest and are no candidates; of valid 4 and 5 are, of test 5.
        scorer = Table([[0.9, 0.8, 0.5, 0.6, 0.5, 2.0, 2.0, 2.0]] * 3)
        valid = Evaluator(split).ranks(scorer, "full", "valid")
        assert (valid.greater, valid.equal, valid.candidates) == ([1], [1], [2])
        test = Evaluator(split).ranks(scorer, "full", "test")
        assert (test.greater, test.equal, test.candidates) == ([0], [0], [1])

    def test_negatives_are_unseen_items_of_the_target(self, random):
        data = random.data
        negatives = sample_negatives(random.test, data, seed=1, name="test", n_negatives=130)
        available = available_negatives(data)
        for user, row in zip(random.test.users, negatives, strict=True):
            seen = set(data.items[data.indptr[user] : data.indptr[user + 1]].tolist())
            unseen = set(np.flatnonzero(data.target_items).tolist()) - seen
            assert len(unseen) == available[user]
            assert len(set(row.tolist())) == 130
            assert set(row.tolist()) <= unseen

    @pytest.mark.parametrize("block_size", [1, 7, None])
    def test_full_ranks_among_the_target_by_brute_force(self, random, block_size):
        data, holdout = random.data, random.test
        rng = np.random.default_rng(0)
        table = rng.integers(0, 40, (data.n_users, data.n_items)).astype(np.float32)
        ranks = rank_in_corpus(Table(table), holdout, data.target_items, block_size=block_size)
        indptr, items, _ = holdout.histories.packed()
        for case, (user, target) in enumerate(zip(holdout.users, holdout.targets, strict=True)):
            left_out = {*items[indptr[case] : indptr[case + 1]].tolist(), int(target)}
            others = [i for i in np.flatnonzero(data.target_items) if i not in left_out]
            assert ranks.candidates[case] == len(others)
            assert ranks.greater[case] == (table[user, others] > table[user, target]).sum()
            assert ranks.equal[case] == (table[user, others] == table[user, target]).sum()

    def test_a_mask_of_all_items_changes_nothing(self, random):
        data = random.data
        arrays = data.indptr, data.items, data.timestamps, data.user_ids, data.item_ids
        plain = leave_one_out(Interactions(*arrays))
        every = leave_one_out(Interactions(*arrays, np.ones(data.n_items, bool)))
        scorer = Table(np.random.default_rng(0).normal(size=(data.n_users, data.n_items)))
        negatives = [Evaluator(split).negatives("test") for split in (plain, every)]
        np.testing.assert_array_equal(*negatives)
        among = [rank_among(scorer, plain.test, drawn) for drawn in negatives]
        full = [Evaluator(split).ranks(scorer, "full", "test") for split in (plain, every)]
        for left, right in (among, full):
            np.testing.assert_array_equal(left.greater, right.greater)
            np.testing.assert_array_equal(left.candidates, right.candidates)


@pytest.mark.filterwarnings("ignore:.* repeat the one before")  # what Toy really holds
def test_cases_of_a_real_file_are_those_of_the_target_domain_alone(real_data):
    data = Interactions.from_file(real_data("toy.inter"))
    target, source = two_domains(data, np.arange(data.n_items) % 2 == 0)
    mixed = mix_domains(target, source)
    assert mixed.n_records == data.n_records
    assert mixed.n_items == data.n_items
    both, alone = leave_one_out(mixed), leave_one_out(target)
    for part in ("valid", "test"):
        ours, theirs = getattr(both, part), getattr(alone, part)
        assert mixed.user_ids[ours.users].tolist() == target.user_ids[theirs.users].tolist()
        np.testing.assert_array_equal(ours.targets, theirs.targets)  # the target's items come first
        of_target = [len(h) for h in _target_histories(ours, target.n_items)]
        assert of_target == theirs.histories.lengths.tolist()
        assert (ours.histories.lengths >= theirs.histories.lengths).all()
    negatives = Evaluator(both).negatives("test")
    assert negatives.max() < target.n_items


def _target_histories(holdout, n_targets):
    indptr, items, _ = holdout.histories.packed()
    return [items[a:b][items[a:b] < n_targets] for a, b in itertools.pairwise(indptr)]
