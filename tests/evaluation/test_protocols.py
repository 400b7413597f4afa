"""The two protocols: which candidates they use, and that only those matter."""

import numpy as np
import pytest

from pdrec_fast.data import Interactions, leave_one_out
from pdrec_fast.evaluation import Evaluator, evaluate, summarize
from tests.evaluation.cases import TableScorer, make_data


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


def test_who_left_too_few_items_is_no_case_of_the_paper_protocol():
    data = make_data()
    everything = [np.arange(211), np.arange(150)]
    lengths = np.concatenate([np.diff(data.indptr), [211, 150]])
    more = Interactions(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([data.items, *everything]),
        None,
        np.arange(62) + 1000,
        data.item_ids,
    )
    table = np.random.default_rng(3).standard_normal((62, 211))
    plain, with_them = leave_one_out(data), leave_one_out(more)
    evaluator = Evaluator(with_them)
    told = r"leaves out 2 users \(1060, 1061\) of the test part, who left fewer than 99 items"
    with pytest.warns(UserWarning, match=told):
        found = evaluator.ranks(TableScorer(table), "paper", "test")
    others = Evaluator(plain).ranks(TableScorer(table), "paper", "test")
    np.testing.assert_array_equal(found.greater, others.greater)
    full = summarize(evaluator.ranks(TableScorer(table), "full", "test"))
    assert len(evaluator.cases("test", "full")) == len(with_them.test) == len(found) + 2
    assert all(np.isfinite(value) for value in full.values())
