"""The two protocols: which candidates they use, and that only those matter."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from pdrec_fast.data import Histories, Holdout, Interactions, leave_one_out
from pdrec_fast.evaluation import (
    Evaluator,
    evaluate,
    format_results,
    rank_among,
    rank_in_corpus,
    sample_negatives,
    summarize,
)
from pdrec_fast.evaluation import protocols as evaluation_protocols
from pdrec_fast.ops.selection import project as projection


def make_data(n_users=60, n_items=211, seed=0):
    """Histories of 3 to 40 items with repeats, all items present in the corpus."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 41, n_users)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, n_items, indptr[-1])
    return Interactions(
        indptr, items, None, np.arange(n_users) + 1000, np.array([f"i{i}" for i in range(n_items)])
    )


class TableScorer:
    """Scores from a fixed table user x item; counts its calls and the largest block."""

    def __init__(self, table):
        self.table = torch.as_tensor(table)
        self.largest_block = 0

    def scores(self, histories, items=None):
        self.largest_block = max(self.largest_block, len(histories))
        rows = self.table[torch.from_numpy(histories.users)]
        return rows if items is None else rows.gather(1, items)


@pytest.fixture(scope="module")
def split():
    return leave_one_out(make_data())


@pytest.fixture
def scorer(split):
    rng = np.random.default_rng(1)
    shape = (split.data.n_users, split.data.n_items)
    return TableScorer(rng.integers(0, 30, shape).astype(np.float32))


def items_of(data, user):
    return set(data.items[data.indptr[user] : data.indptr[user + 1]].tolist())


def test_negatives_are_distinct_and_never_interacted(split):
    for name in ("valid", "test"):
        holdout = getattr(split, name)
        negatives = sample_negatives(holdout, split.data, seed=3, name=name)
        assert negatives.shape == (len(holdout), 99)
        assert negatives.dtype == np.int32
        for user, row in zip(holdout.users, negatives, strict=True):
            assert len(set(row.tolist())) == 99
            assert not set(row.tolist()) & items_of(split.data, user)
            assert row.min() >= 0
            assert row.max() < split.data.n_items


def test_negatives_use_up_a_corpus_that_just_suffices(split):
    scarcest = max(len(items_of(split.data, user)) for user in split.test.users)
    n_negatives = split.data.n_items - scarcest
    negatives = sample_negatives(
        split.test, split.data, seed=0, name="test", n_negatives=n_negatives
    )
    for user, row in zip(split.test.users, negatives, strict=True):
        unobserved = set(range(split.data.n_items)) - items_of(split.data, user)
        assert set(row.tolist()) <= unobserved
        assert len(set(row.tolist())) == n_negatives
    with pytest.raises(ValueError, match=f"corpus has 211 items .* only {n_negatives}"):
        sample_negatives(split.test, split.data, seed=0, name="test", n_negatives=n_negatives + 1)


def test_negatives_are_uniform():
    n_users, n_items = 20_000, 12
    items = np.tile(np.array([0, 3, 4, 11], dtype=np.int32), n_users)
    data = Interactions(
        np.arange(n_users + 1) * 4, items, None, np.arange(n_users), np.arange(n_items)
    )
    holdout = leave_one_out(data).test
    negatives = sample_negatives(holdout, data, seed=5, name="test", n_negatives=3)
    counts = np.bincount(negatives.ravel(), minlength=n_items)
    assert counts[[0, 3, 4, 11]].sum() == 0
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3
    assert np.count_nonzero(counts) == 8
    # Every set of three is as likely as any other.
    sets = np.unique(np.sort(negatives, axis=1), axis=0, return_counts=True)[1]
    assert len(sets) == 56
    assert stats.chisquare(sets).pvalue > 1e-3


def test_negatives_depend_on_seed_split_and_user_alone(split):
    draw = partial(sample_negatives, data=split.data)
    base = draw(split.test, seed=0, name="test")
    np.testing.assert_array_equal(base, draw(split.test, seed=0, name="test"))
    assert (base != draw(split.test, seed=1, name="test")).any()
    assert (base != draw(split.test, seed=0, name="valid")).any()
    chosen = np.array([17, 4, 40])
    part = Holdout(split.test.histories[chosen], split.test.targets[chosen])
    np.testing.assert_array_equal(base[chosen], draw(part, seed=0, name="test"))


def test_negatives_are_the_same_on_every_machine():
    """Numbers printed in reports stay reproducible: a changed draw must be noticed."""
    items = np.array([0, 1, 2, 5, 6, 7], dtype=np.int32)
    data = Interactions(np.array([0, 3, 6]), items, None, np.arange(2), np.arange(10))
    negatives = sample_negatives(leave_one_out(data).test, data, seed=0, name="test", n_negatives=4)
    assert negatives.tolist() == [[4, 6, 8, 9], [1, 4, 8, 9]]


def test_targets_must_be_in_the_data(split):
    targets = split.test.targets.copy()
    user = split.test.users[2]
    targets[2] = min(set(range(split.data.n_items)) - items_of(split.data, user))
    holdout = Holdout(split.test.histories, targets)
    with pytest.raises(ValueError, match=f"user {user + 1000} never interacted with the target i"):
        sample_negatives(holdout, split.data, seed=0, name="test")


def test_paper_ranks_by_hand(split, scorer):
    evaluator = Evaluator(split, seed=2, block_size=7)
    ranks = evaluator.ranks(scorer, "paper", "test")
    negatives = evaluator.negatives("test")
    for case, user in enumerate(split.test.users):
        target = scorer.table[user, split.test.targets[case]]
        others = scorer.table[user, negatives[case]]
        assert ranks.greater[case] == (others > target).sum()
        assert ranks.equal[case] == (others == target).sum()
        assert ranks.candidates[case] == 99


def test_full_ranks_by_hand(split, scorer):
    for name in ("valid", "test"):
        ranks = Evaluator(split).ranks(scorer, "full", name)
        holdout = getattr(split, name)
        n_held_out = {"valid": 2, "test": 1}[name]
        for case, user in enumerate(holdout.users):
            start, stop = split.data.indptr[user : user + 2]
            history = split.data.items[start : stop - n_held_out]
            target = holdout.targets[case]
            others = sorted(set(range(split.data.n_items)) - set(history.tolist()) - {int(target)})
            scores = scorer.table[user, others]
            assert ranks.greater[case] == (scores > scorer.table[user, target]).sum()
            assert ranks.equal[case] == (scores == scorer.table[user, target]).sum()
            assert ranks.candidates[case] == len(others)


def test_full_never_filters_a_target_that_is_in_the_history():
    histories = Histories(np.array([0, 1, 0]), None, np.array([0]), np.array([0]), np.array([2]), 4)
    holdout = Holdout(histories, np.array([0]))
    scorer = TableScorer([[1.0, 9.0, 2.0, 1.0]])
    ranks = rank_in_corpus(scorer, holdout, block_size=8)
    assert (ranks.greater[0], ranks.equal[0], ranks.candidates[0]) == (1, 1, 2)


def test_full_with_an_empty_history():
    histories = Histories(np.array([2]), None, np.array([0]), np.array([0]), np.array([0]), 3)
    ranks = rank_in_corpus(
        TableScorer([[5.0, 6.0, 6.0]]), Holdout(histories, np.array([2])), block_size=1
    )
    assert (ranks.greater[0], ranks.equal[0], ranks.candidates[0]) == (0, 1, 2)


@pytest.mark.parametrize("protocol", ["paper", "full"])
def test_block_size_changes_nothing_but_the_memory(split, scorer, protocol):
    whole = Evaluator(split, block_size=10_000).ranks(scorer, protocol, "valid")
    scorer.largest_block = 0
    blocks = Evaluator(split, block_size=7).ranks(scorer, protocol, "valid")
    assert scorer.largest_block == 7
    np.testing.assert_array_equal(whole.greater, blocks.greater)
    np.testing.assert_array_equal(whole.equal, blocks.equal)
    np.testing.assert_array_equal(whole.candidates, blocks.candidates)


@pytest.mark.parametrize("protocol", ["paper", "full"])
def test_blocks_are_larger_where_the_scorer_is_on_a_gpu(split, scorer, protocol, monkeypatch):
    n_cases = len(split.valid)
    per_block = {None: 4, torch.device("cpu"): 4, torch.device("cuda"): n_cases}
    monkeypatch.setattr(projection, "_SCORES_PER_BLOCK", 4 * split.data.n_items)
    monkeypatch.setattr(evaluation_protocols, "_CASES_PER_BLOCK", 4)
    for device, expected in per_block.items():
        scorer.device, scorer.largest_block = device, 0
        Evaluator(split).ranks(scorer, protocol, "valid")
        assert scorer.largest_block == expected


@pytest.mark.parametrize("protocol", ["paper", "full"])
def test_constant_scorer_is_at_chance(split, protocol):
    scorer = TableScorer(np.zeros((split.data.n_users, split.data.n_items), dtype=np.float32))
    metrics = evaluate(scorer, split, protocols=[protocol])[protocol]["test"]
    assert metrics["auc"] == 0.5
    if protocol == "paper":
        assert metrics["hr@10"] == pytest.approx(0.1)


def test_negatives_are_drawn_once(split):
    evaluator = Evaluator(split)
    assert evaluator.negatives("valid") is evaluator.negatives("valid")
    assert (evaluator.negatives("valid") != evaluator.negatives("test")).any()


def test_evaluate_reports_every_protocol_and_split(split, scorer):
    results = evaluate(scorer, split, ks=(5,), seed=4)
    assert list(results) == ["paper", "full"]
    for protocol, by_split in results.items():
        assert list(by_split) == ["valid", "test"]
        for name, metrics in by_split.items():
            ranks = Evaluator(split, seed=4).ranks(scorer, protocol, name)
            assert metrics == summarize(ranks, ks=(5,))


def test_scores_do_not_track_gradients(split):
    class Tracking(TableScorer):
        def scores(self, histories, items=None):
            assert not torch.is_grad_enabled()
            return super().scores(histories, items)

    table = torch.rand(split.data.n_users, split.data.n_items, requires_grad=True)
    assert len(Evaluator(split).ranks(Tracking(table), "full", "test")) == len(split.test)


def test_wrong_shape_and_nan_are_refused(split, scorer):
    narrow = TableScorer(scorer.table[:, :-1])
    with pytest.raises(ValueError, match=r"TableScorer.scores returned shape \(60, 210\)"):
        Evaluator(split).ranks(narrow, "full", "test")
    broken = TableScorer(scorer.table.clone())
    broken.table[split.test.users[5], split.test.targets[5]] = torch.nan
    for protocol in ("paper", "full"):
        with pytest.raises(ValueError, match="NaN"):
            Evaluator(split).ranks(broken, protocol, "test")


def test_arguments_are_checked(split, scorer):
    with pytest.raises(ValueError, match="seed=-1"):
        Evaluator(split, seed=-1)
    with pytest.raises(ValueError, match="block_size=0"):
        Evaluator(split, block_size=0)
    with pytest.raises(ValueError, match="unknown protocol='sampled'"):
        Evaluator(split).ranks(scorer, "sampled", "test")
    with pytest.raises(ValueError, match="unknown split on='train'"):
        Evaluator(split).ranks(scorer, "paper", "train")


def test_a_corpus_too_small_for_the_paper_protocol(scorer):
    small = leave_one_out(make_data(n_users=5, n_items=100))
    with pytest.raises(ValueError, match="cannot sample 99 negatives: the corpus has 100 items"):
        Evaluator(small).ranks(scorer, "paper", "test")


def test_a_holdout_without_cases_is_refused(split, scorer):
    none = np.array([], dtype=np.int64)
    empty = Holdout(split.test.histories[none], none)
    with pytest.raises(ValueError, match="no cases"):
        rank_in_corpus(scorer, empty, block_size=4)
    with pytest.raises(ValueError, match="no cases"):
        rank_among(scorer, empty, np.zeros((0, 9), dtype=np.int32), block_size=4)


def test_table_names_the_protocol_beside_every_number():
    results = {
        "SASRec": {"paper": {"test": {"hr@10": 0.3169, "auc": 0.5771}}},
        "GRU": {
            "paper": {"test": {"hr@10": 0.25, "auc": 0.5}},
            "full": {"test": {"hr@10": 0.01, "auc": 0.5}},
        },
    }
    assert format_results(results, metrics=("hr@10", "auc")).splitlines() == [
        "protocol: paper (1 target vs 99 sampled negatives), split: test",
        "protocol  model    hr@10     auc",
        "paper     SASRec  0.3169  0.5771",
        "paper     GRU     0.2500  0.5000",
        "",
        "protocol: full (1 target vs all items not in the history), split: test",
        "protocol  model   hr@10     auc",
        "full      GRU    0.0100  0.5000",
    ]
