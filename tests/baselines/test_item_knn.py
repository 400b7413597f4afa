"""Item neighbourhoods against their definition, dense and in float64."""

import numpy as np
import pytest
import torch

from pdrec_fast import ItemKNN, LinearDenoiser, Popularity, evaluate, leave_one_out, synthetic
from pdrec_fast.data import Interactions
from pdrec_fast.errors import CheckpointError, DataError, NotFittedError


@pytest.fixture(scope="module")
def train() -> Interactions:
    return leave_one_out(synthetic(90, 47, seed=3)).train


def similarities(train: Interactions, shrinkage: float, neighbors: int) -> np.ndarray:
    """float64 [source, target], from the definition; the best of every target by a loop."""
    x = np.zeros((train.n_users, train.n_items))
    x[train.record_users, train.items] = 1
    both = x.T @ x
    roots = np.sqrt(np.outer(both.diagonal(), both.diagonal()))
    alike = np.divide(both, roots + shrinkage, where=roots > 0, out=np.zeros_like(both))
    np.fill_diagonal(alike, 0)
    for target in range(train.n_items):
        order = sorted(range(train.n_items), key=lambda source: (-alike[source, target], source))
        alike[order[neighbors:], target] = 0
    return alike


@pytest.mark.parametrize(("shrinkage", "neighbors"), [(0.0, 1000), (3.5, 1000), (3.5, 4)])
def test_scores_are_decayed_histories_times_similarities(train, shrinkage, neighbors):
    model = ItemKNN(shrinkage=shrinkage, neighbors=neighbors, decay=0.5).fit(train)
    alike = similarities(train, shrinkage, neighbors)
    histories = train.histories()[np.array([3, 0, 3, 89])]
    scores = model.scores(histories)
    assert scores.dtype == torch.float32
    known = np.bincount(train.items, minlength=train.n_items) > 0
    for row, user in zip(scores, (3, 0, 3, 89), strict=True):
        items = train.items[train.indptr[user] : train.indptr[user + 1]]
        assert known[items].all()
        if neighbors < 1000:  # an item that is nobody's neighbour takes no place
            items = items[alike[items].any(1)]
        wanted = sum(0.5**back * alike[item] for back, item in enumerate(items[::-1]))
        np.testing.assert_allclose(row.numpy(), wanted, rtol=1e-5, atol=1e-7)
    items = torch.tensor([[1, 5], [0, 2], [7, 7], [46, 0]])
    assert torch.equal(model.scores(histories, items), scores.gather(1, items))


def test_ties_go_to_the_lower_item():
    """Items 1, 2 and 3 are all alike to item 0; one neighbour is kept."""
    users, items = np.repeat([0, 1], 4), np.tile([0, 1, 2, 3], 2)
    data = Interactions.from_arrays(users, items, np.tile([0, 1, 2, 3], 2))
    model = ItemKNN(neighbors=1, shrinkage=0, decay=1).fit(data)
    scores = model.scores(data.histories()[:1])
    # Item 0's neighbour is 1, everyone else's is 0; cosines are 1.
    assert torch.equal(scores, torch.ones(1, 4))
    only_two = data.histories().only(np.array([False, False, True, False]))
    assert not model.scores(only_two).any()


@pytest.mark.parametrize("kind", [ItemKNN, LinearDenoiser])
def test_it_is_better_than_popularity_and_comes_back_from_disk(kind, tmp_path):
    split = leave_one_out(synthetic(400, 120, seed=0))
    model = kind().fit(split)
    assert model.trained_on == split.train.fingerprint()

    def figure(scorer):
        found = evaluate(scorer, split, on=["test"], protocols=["full"])
        return found["full"]["test"]["ndcg@10"]

    assert figure(model) > 1.5 * figure(Popularity(split.train))
    model.save(tmp_path / "model")
    again = kind.load(tmp_path / "model")
    assert (again.config, again.trained_on) == (model.config, model.trained_on)
    histories = split.test.histories
    assert torch.equal(again.scores(histories), model.scores(histories))
    other = {ItemKNN: LinearDenoiser, LinearDenoiser: ItemKNN}[kind]
    with pytest.raises(CheckpointError, match=f"holds a {model.KIND}, not a {other.KIND}"):
        other.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "value"),
    [("neighbors", 0), ("neighbors", 2.5), ("shrinkage", -1.0), ("decay", 0.0), ("decay", 1.1)],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        ItemKNN(**{name: value})


@pytest.mark.parametrize("kind", [ItemKNN, LinearDenoiser])
def test_what_cannot_be_done(kind, train, tmp_path):
    with pytest.raises(NotFittedError, match=rf"{kind.__name__}\.load"):
        kind().scores(train.histories())
    with pytest.raises(NotFittedError):
        kind().save(tmp_path / "model")
    other = synthetic(9, train.n_items + 1, seed=0)
    with pytest.raises(ValueError, match="index both by the same catalogue"):
        kind().fit(train).scores(other.histories())
    nobody = Interactions(
        np.zeros(2, dtype=np.int64), np.zeros(0), None, np.arange(1), np.arange(3)
    )
    with pytest.raises(DataError, match="nothing to learn"):
        kind().fit(nobody)
