"""Scores of blocks: which candidates a target is ranked among, and what is refused."""

import numpy as np
import pytest
import torch

from pdrec_fast.data import Histories, Holdout
from pdrec_fast.evaluation import Evaluator, rank_among, rank_in_corpus, scoring
from pdrec_fast.ops.selection import project as projection
from tests.evaluation.cases import TableScorer


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
    per_block = {None: 40, torch.device("cpu"): 40, torch.device("cuda"): n_cases}
    monkeypatch.setattr(projection, "_SCORES_PER_BLOCK", 40 * split.data.n_items)
    monkeypatch.setattr(scoring, "_CASES_PER_BLOCK", 40)
    for device, expected in per_block.items():
        scorer.device, scorer.largest_block = device, 0
        Evaluator(split).ranks(scorer, protocol, "valid")
        assert scorer.largest_block == expected


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


def test_a_holdout_without_cases_is_refused(split, scorer):
    none = np.array([], dtype=np.int64)
    empty = Holdout(split.test.histories[none], none)
    with pytest.raises(ValueError, match="no cases"):
        rank_in_corpus(scorer, empty, block_size=4)
    with pytest.raises(ValueError, match="no cases"):
        rank_among(scorer, empty, np.zeros((0, 9), dtype=np.int32), block_size=4)


def test_a_scorer_is_prepared_once_for_all_blocks(split):
    class Preparing(TableScorer):
        asked = 0

        def prepared(self):
            self.asked += 1
            return TableScorer(self.table)

        def scores(self, histories, items=None):
            assert items is not None, "full is for what was prepared"
            return super().scores(histories, items)

    table = np.random.default_rng(0).random((split.data.n_users, split.data.n_items))
    scorer = Preparing(table)
    evaluator = Evaluator(split, block_size=7)
    for protocol in ("full", "paper"):
        found, expected = (evaluator.ranks(s, protocol) for s in (scorer, TableScorer(table)))
        np.testing.assert_array_equal(found.greater, expected.greater)
    assert scorer.asked == 1
