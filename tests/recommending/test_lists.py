"""Coverage, Gini, popularity, novelty and diversity of lists, by hand."""

import numpy as np
import pytest

import pdrec_fast as pf
from pdrec_fast.errors import DataError

# Four users, items 10 (three users, four records), 20 (two users), 30 (one), 40 (one).
USERS = [1, 1, 2, 3, 1, 2, 3, 4]
ITEMS = [10, 10, 10, 10, 20, 20, 30, 40]


def data():
    return pf.Interactions.from_arrays(USERS, ITEMS, range(len(USERS)))


def lists(rows):
    items = np.array(rows, dtype=object)
    scores = np.where(items == None, -np.inf, 1.0).astype(np.float32)  # noqa: E711
    return pf.Recommendations(np.arange(len(rows)), items, scores, np.zeros(len(rows), bool))


def test_by_hand():
    found = pf.list_metrics(lists([[10, 20], [10, None], [10, 30]]), data())
    assert found["coverage"] == 3 / 4
    # Given out 0, 1, 1, 3 times: (-3 * 0 - 1 * 1 + 1 * 1 + 3 * 3) / (4 * 5).
    assert found["gini"] == pytest.approx(9 / 20)
    assert found["mean_records"] == pytest.approx((3 * 4 + 2 + 1) / 5)
    assert found["novelty"] == pytest.approx((3 * np.log2(4 / 3) + 1 + 2) / 5)


def test_the_ends_of_the_scale():
    assert pf.list_metrics(lists([[10, 20], [30, 40]]), data())["gini"] == 0
    alone = pf.list_metrics(lists([[40], [40], [40]]), data())
    assert (alone["gini"], alone["coverage"]) == (3 / 4, 1 / 4)


def test_of_two_domains_the_targets_items_count():
    both = pf.mix_domains(data(), pf.Interactions.from_arrays([1, 2], [7, 8], [1, 2]))
    found = lists([[name for name in both.item_ids[both.target_items]]])
    assert pf.list_metrics(found, both)["coverage"] == 1


def test_an_item_without_a_record_counts_as_had_by_one():
    split = pf.leave_one_out(pf.Interactions.from_arrays([1, 1, 1, 2], [10, 20, 30, 10], range(4)))
    found = pf.list_metrics(lists([[30]]), split.train)
    assert (found["mean_records"], found["novelty"]) == (0, 1)


def test_diversity_is_that_of_pairs():
    vectors = np.array([[3, 0], [0, 2], [1, 1], [0, 0]])  # of items 10, 20, 30, 40
    found = pf.list_metrics(
        lists([[10, 20, 30], [10, None, None], [30, 40, None]]), data(), vectors
    )
    pairs = 1 - np.array([0, np.sqrt(0.5), np.sqrt(0.5)])
    assert found["diversity"] == pytest.approx((pairs.mean() + 1) / 2)
    alike = pf.list_metrics(lists([[10, 20]]), data(), np.ones((4, 3)))
    assert alike["diversity"] == pytest.approx(0, abs=1e-6)


def test_diversity_in_blocks(monkeypatch):
    split = pf.leave_one_out(pf.synthetic(n_users=60, n_items=200, seed=3))
    recommended = pf.DiffRec(hidden=(8,), epochs=1).fit(split, progress=False).recommend(k=5)
    vectors = np.random.default_rng(0).normal(size=(200, 4))
    whole = pf.list_metrics(recommended, split.train, vectors)
    monkeypatch.setattr("pdrec_fast.recommending.lists._BLOCK", 7 * 5 * 4)
    assert pf.list_metrics(recommended, split.train, vectors) == pytest.approx(whole)
    mine = [vectors[split.train.item_index(row)] for row in recommended.items[:, :5].tolist()]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in mine]
    by_hand = np.mean([1 - ((each @ each.T).sum() - 5) / 20 for each in unit])
    assert whole["diversity"] == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize(
    ("vectors", "why"),
    [
        (np.ones((3, 2)), r"with 4 rows.*got \[3, 2\]"),
        (np.ones(4), r"got \[4\]"),
        ([[1.0], [2.0], [np.nan], [1.0]], "row 2 is not"),
    ],
)
def test_vectors_that_do_not_fit(vectors, why):
    with pytest.raises(ValueError, match=why):
        pf.list_metrics(lists([[10, 20]]), data(), vectors)


def test_of_a_model():
    split = pf.leave_one_out(pf.synthetic(n_users=60, n_items=200, seed=3))
    model = pf.DiffRec(hidden=(8,), epochs=1).fit(split, progress=False)
    found = pf.list_metrics(model.recommend(k=5), model.interactions(), model.item_directions())
    assert 0 < found["coverage"] <= 1
    assert 0 < found["diversity"] < 2
    assert 0 <= found["gini"] < 1


def test_what_cannot_be_described():
    with pytest.raises(DataError, match=r"item '50' is recommended, but not in the interactions"):
        pf.list_metrics(lists([[10, 50]]), data())
    with pytest.raises(DataError, match="no item is recommended"):
        pf.list_metrics(lists([[None]]), data())
    with pytest.raises(DataError, match="no list has two items"):
        pf.list_metrics(lists([[10], [20]]), data(), np.ones((4, 2)))
