"""Metrics against hand-computed cases, enumerated tie orders and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from pdrec_fast.evaluation import Ranks, metric_names, per_case, rank_counts, summarize


def ranks_of(*cases):
    return Ranks(*np.array(cases, dtype=np.int64).reshape(-1, 3).T)


def metric_at(rank, n_candidates, name):
    """A metric of a target at a known 0-based rank, straight from its definition."""
    kind, _, k = name.partition("@")
    if kind == "hr":
        return float(rank < int(k))
    if kind == "ndcg":
        return 1 / math.log2(rank + 2) if rank < int(k) else 0.0
    return 1 / (rank + 1) if kind == "mrr" else (n_candidates - rank) / n_candidates


@pytest.mark.parametrize(
    ("case", "name", "expected"),
    [
        ((0, 0, 99), "hr@1", 1.0),
        ((0, 0, 99), "ndcg@10", 1.0),
        ((0, 0, 99), "auc", 1.0),
        ((2, 0, 99), "ndcg@5", 0.5),
        ((2, 0, 99), "mrr", 1 / 3),
        ((9, 0, 99), "hr@10", 1.0),
        ((10, 0, 99), "hr@10", 0.0),
        ((10, 0, 99), "ndcg@10", 0.0),
        ((99, 0, 99), "auc", 0.0),
        ((1, 1, 3), "hr@1", 0.0),
        ((1, 1, 3), "hr@2", 0.5),
        ((1, 1, 3), "mrr", (1 / 2 + 1 / 3) / 2),
        ((1, 1, 3), "auc", 0.5),
        ((0, 2, 4), "ndcg@2", (1 + 1 / math.log2(3)) / 3),
        ((0, 0, 0), "auc", 0.5),
        ((0, 0, 0), "hr@1", 1.0),
    ],
)
def test_hand_computed(case, name, expected):
    assert per_case(ranks_of(case), name) == pytest.approx([expected], abs=1e-14)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_expectation_over_tie_orders(greater, equal, below):
    n_candidates = greater + equal + below
    ranks = ranks_of((greater, equal, n_candidates))
    for name in metric_names([1, 3, 10]) if n_candidates else []:
        orders = [metric_at(greater + ahead, n_candidates, name) for ahead in range(equal + 1)]
        assert per_case(ranks, name)[0] == pytest.approx(np.mean(orders), abs=1e-13)


def test_expectation_equals_all_permutations_of_ties():
    scores = [2.0, 1.0, 1.0, 1.0, 0.0]  # the target is the first of those that score 1
    target = 1
    orders = []
    for order in itertools.permutations(range(len(scores))):
        ranking = sorted(order, key=lambda item: -scores[item])
        orders.append(metric_at(ranking.index(target), 4, "ndcg@3"))
    assert per_case(ranks_of((1, 2, 4)), "ndcg@3")[0] == pytest.approx(np.mean(orders))


def test_constant_scores_give_chance_level():
    ranks = rank_counts(torch.zeros(7), torch.zeros(7, 99))
    found = summarize(ranks, ks=(10, 50))
    assert found["hr@10"] == pytest.approx(0.1)
    assert found["hr@50"] == pytest.approx(0.5)
    assert found["auc"] == pytest.approx(0.5)
    assert found["mrr"] == pytest.approx(sum(1 / r for r in range(1, 101)) / 100)


def test_position_of_the_target_does_not_matter():
    scores = torch.tensor([[1.0, 0.5, 1.0, 2.0, 0.0]])
    results = []
    for column in (0, 2):
        excluded = torch.tensor([0]), torch.tensor([column])
        results.append(summarize(rank_counts(scores[:, column], scores, excluded)))
    assert results[0] == results[1]


@pytest.mark.parametrize("n_candidates", [1, 7, 99])
def test_matches_scikit_learn(n_candidates):
    rng = np.random.default_rng(n_candidates)
    scores = rng.integers(0, 9, (40, n_candidates + 1)).astype(np.float32)
    relevant = np.zeros_like(scores)
    relevant[:, 0] = 1
    ranks = rank_counts(torch.from_numpy(scores[:, 0]), torch.from_numpy(scores[:, 1:]))

    auc = [roc_auc_score(truth, row) for truth, row in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(per_case(ranks, "auc"), auc, atol=1e-12)
    # scikit-learn averages over ties as well.
    for k in (1, 5, n_candidates + 1):
        found = per_case(ranks, f"ndcg@{k}").mean()
        assert found == pytest.approx(ndcg_score(relevant, scores, k=k), abs=1e-12)


def test_rank_counts_by_hand():
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0], [0.0, -0.0, -1.0, math.inf]])
    ranks = rank_counts(torch.tensor([2.0, 0.0]), scores)
    assert ranks.greater.tolist() == [1, 1]
    assert ranks.equal.tolist() == [2, 2]
    assert ranks.candidates.tolist() == [4, 4]
    assert ranks.greater.dtype == ranks.equal.dtype == ranks.candidates.dtype == np.int64


def test_rank_counts_leaves_out_excluded():
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0], [3.0, 1.0, 2.0, 2.0]])
    excluded = torch.tensor([0, 0, 1, 1, 1, 1]), torch.tensor([0, 2, 0, 1, 2, 3])
    ranks = rank_counts(torch.tensor([2.0, 2.0]), scores, excluded)
    assert ranks.greater.tolist() == [0, 0]
    assert ranks.equal.tolist() == [1, 0]
    assert ranks.candidates.tolist() == [2, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rank_counts_non_contiguous(dtype):
    scores = torch.randint(0, 5, (37, 11), generator=torch.Generator().manual_seed(0)).to(dtype).T
    target = scores[:, 0]
    ranks = rank_counts(target, scores[:, 1::2])
    expected = (scores[:, 1::2] > target[:, None]).sum(1)
    assert ranks.greater.tolist() == expected.tolist()
    assert ranks.candidates.tolist() == [18] * 11


def test_nan_scores_are_refused():
    scores = torch.zeros(3, 5)
    scores[2, 4] = math.nan
    with pytest.raises(ValueError, match=r"scores of case 2 is NaN \(column 4\)"):
        rank_counts(torch.zeros(3), scores)
    with pytest.raises(ValueError, match="target_scores of case 1 is NaN"):
        rank_counts(torch.tensor([0.0, math.nan, 0.0]), torch.zeros(3, 5))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"not \[3\] and \[2, 5\]"):
        rank_counts(torch.zeros(3), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="C > 0"):
        rank_counts(torch.zeros(3), torch.zeros(3, 0))


def test_ranks_are_checked():
    with pytest.raises(ValueError, match="one length"):
        Ranks(np.zeros(2), np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="case 1: greater=2 and equal=2 do not fit 3"):
        ranks_of((0, 0, 3), (2, 2, 3))
    with pytest.raises(ValueError, match="case 0"):
        ranks_of((-1, 0, 3))


def test_concatenate_keeps_the_order():
    whole = ranks_of((0, 1, 5), (2, 0, 4), (3, 1, 9))
    parts = [ranks_of((0, 1, 5)), ranks_of(), ranks_of((2, 0, 4), (3, 1, 9))]
    joined = Ranks.concatenate(parts)
    assert len(joined) == 3
    np.testing.assert_array_equal(joined.greater, whole.greater)
    np.testing.assert_array_equal(joined.equal, whole.equal)
    np.testing.assert_array_equal(joined.candidates, whole.candidates)


def test_summarize_is_the_mean_of_the_cases():
    ranks = ranks_of((0, 0, 9), (4, 2, 9), (9, 0, 9))
    found = summarize(ranks, ks=(1, 5))
    assert list(found) == ["hr@1", "hr@5", "ndcg@1", "ndcg@5", "mrr", "auc"]
    for name, value in found.items():
        assert value == pytest.approx(per_case(ranks, name).mean())
    assert "ndcg@50" in summarize(ranks)


def test_summarize_refuses_no_cases():
    with pytest.raises(ValueError, match="no cases"):
        summarize(ranks_of())


@pytest.mark.parametrize("name", ["hr", "hr@0", "ndcg@-1", "ndcg@x", "map@10", "auc@10"])
def test_unknown_metric_is_refused(name):
    with pytest.raises(ValueError, match="unknown metric"):
        per_case(ranks_of((0, 0, 9)), name)
