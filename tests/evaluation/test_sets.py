"""Recall and NDCG of held-out sets against values computed by hand, and against a loop."""

import math

import numpy as np
import pytest
import torch

from pdrec_fast import Interactions, ItemKNN, evaluate_sets, given_split, synthetic
from pdrec_fast.evaluation import Ranks, summarize_sets


class Table:
    """Scores of every user, [n_users, n_items]."""

    def __init__(self, scores):
        self.table = torch.tensor(scores, dtype=torch.float32)

    def scores(self, histories, items=None):
        rows = self.table[torch.from_numpy(histories.users)]
        return rows if items is None else rows.gather(1, items)


def part(*records):
    return Interactions.from_arrays(*zip(*records, strict=True))


def test_by_hand():
    """Items 0 .. 5. User 0 has 0, held out 1 and 4 in validation, 2 in the test; user 1 has 5,
    held out 0 in validation, 1, 2 and 3 in the test."""
    split = given_split(
        part((0, 0, 1), (1, 5, 1)),
        part((0, 1, 2), (0, 4, 2), (1, 0, 2)),
        part((0, 2, 3), (1, 1, 3), (1, 2, 3), (1, 3, 3)),
    )
    scorer = Table([[9, 5, 4, 3, 2, 1], [1, 6, 2, 3, 4, 9]])
    found = evaluate_sets(scorer, split, ks=(1, 2, 3, 10))
    # Validation: user 0 ranks 1 2 3 4 5, of which 1 (first) and 4 (fourth) are held out; user 1
    # ranks 1 4 3 2 0, of which 0 (fifth).
    valid = found["valid"]
    second, third, fourth, fifth = (1 / math.log2(place + 1) for place in (2, 3, 4, 5))
    assert valid["recall@1"] == pytest.approx((1 / 2 + 0) / 2)
    assert valid["recall@3"] == pytest.approx((1 / 2 + 0) / 2)
    assert valid["recall@10"] == 1
    assert valid["ndcg@1"] == pytest.approx((1 + 0) / 2)
    assert valid["ndcg@3"] == pytest.approx((1 / (1 + second) + 0) / 2)
    assert valid["ndcg@10"] == pytest.approx(((1 + fourth) / (1 + second) + fifth) / 2)
    # Test: without 1 and 4 user 0 ranks 2 3 5; without 0 user 1 ranks 1 4 3 2.
    test = found["test"]
    assert test["recall@1"] == pytest.approx((1 + 1 / 3) / 2)
    assert test["recall@2"] == pytest.approx((1 + 1 / 3) / 2)
    assert test["recall@3"] == pytest.approx((1 + 2 / 3) / 2)
    whole = 1 + second + third
    assert test["ndcg@2"] == pytest.approx((1 + 1 / (1 + second)) / 2)
    assert test["ndcg@3"] == pytest.approx((1 + (1 + third) / whole) / 2)
    assert test["ndcg@10"] == pytest.approx((1 + (1 + third + fourth) / whole) / 2)


def test_of_a_model_as_by_a_loop_over_users():
    data = synthetic(80, 60, seed=4)
    rng = np.random.default_rng(0)
    which = rng.choice(3, data.n_records, p=(0.6, 0.2, 0.2))
    order = np.argsort(which, kind="stable")  # times that agree with the parts
    times = np.empty(len(order))
    times[order] = np.arange(len(order))
    parts = [
        Interactions.from_arrays(data.record_users[some], data.items[some], times[some])
        for some in (which == n for n in range(3))
    ]
    split = given_split(*parts)
    model = ItemKNN().fit(split)
    found = evaluate_sets(model, split, on=["test"], ks=(5, 20))["test"]
    recalls, ndcgs = [], []
    cases = split.test
    for user in np.unique(cases.users):
        rows = np.flatnonzero(cases.users == user)
        history = cases.histories[rows[:1]]
        scores = model.scores(history)[0].double().numpy()
        scores -= 1e-9 * np.arange(len(scores))  # ties by number
        scores[split.data.items[history.starts[0] : history.stops[0]]] = -np.inf
        best = np.argsort(-scores)[:5]
        hits = np.isin(best, cases.targets[rows])
        recalls.append(hits.sum() / len(rows))
        gains = 1 / np.log2(np.arange(5) + 2)
        ndcgs.append((hits * gains).sum() / gains[: len(rows)].sum())
    # Ties are rare, and count by their expectation.
    assert found["recall@5"] == pytest.approx(np.mean(recalls), abs=0.01)
    assert found["ndcg@5"] == pytest.approx(np.mean(ndcgs), abs=0.01)
    assert found["recall@20"] > found["recall@5"] > 0.1


def test_ties_are_expectations():
    """Two held-out items level with two others: each is in the first place once in four."""
    ranks = Ranks(np.array([0, 0]), np.array([3, 3]), np.array([9, 9]))
    found = summarize_sets(ranks, np.array([7, 7]), ks=(1, 4))
    assert found["recall@1"] == pytest.approx(1 / 4)
    assert found["ndcg@1"] == pytest.approx(1 / 2)
    assert found["recall@4"] == pytest.approx(1)


def test_what_is_refused():
    ranks = Ranks(np.array([0]), np.array([0]), np.array([9]))
    with pytest.raises(ValueError, match=r"users must be \[1\]"):
        summarize_sets(ranks, np.array([7, 7]))
    with pytest.raises(ValueError, match="no cases"):
        summarize_sets(Ranks(*(np.zeros(0),) * 3), np.zeros(0, int))
    with pytest.raises(ValueError, match="hr@0"):
        summarize_sets(ranks, np.array([7]), ks=(0,))
