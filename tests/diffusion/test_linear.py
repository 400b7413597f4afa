"""The linear denoiser against its definition: the constrained least squares that it solves."""

import numpy as np
import pytest
import torch

from pdrec_fast.data import Interactions, leave_one_out, synthetic
from pdrec_fast.diffusion import LinearDenoiser
from pdrec_fast.errors import DataError, NotFittedError
from pdrec_fast.evaluation import Popularity, evaluate


def matrix_of(model, n_items):
    """B, from the model's entries."""
    dense = torch.zeros(n_items, n_items)
    sources = np.repeat(np.arange(n_items), np.diff(model._indptr))
    dense[torch.from_numpy(sources), model._targets] = model._values
    return dense


def vectors_of(train):
    x = torch.zeros(train.n_users, train.n_items, dtype=torch.float64)
    users = np.repeat(np.arange(train.n_users), np.diff(train.indptr))
    x[torch.from_numpy(users), torch.from_numpy(train.items.astype(np.int64))] = 1
    return x


@pytest.fixture(scope="module", params=[(120, 40), (30, 90)], ids=["by items", "by users"])
def train(request) -> Interactions:
    return leave_one_out(synthetic(*request.param, seed=3)).train


@pytest.mark.parametrize(("ridge", "dropout"), [(3.0, 0.0), (0.7, 0.5)])
def test_each_column_solves_its_own_least_squares(train, ridge, dropout):
    """Column j: ridge regression of item j on all others, dropout's share of the Gram matrix's
    diagonal in the penalty, solved item by item."""
    model = LinearDenoiser(ridge=ridge, dropout=dropout, neighbors=1000).fit(train)
    x = vectors_of(train)
    gram = x.t() @ x
    penalized = gram + torch.diag(dropout / (1 - dropout) * gram.diagonal() + ridge)
    found = matrix_of(model, train.n_items)
    for j in range(train.n_items):
        others = torch.arange(train.n_items) != j
        wanted = torch.linalg.solve(penalized[others][:, others], gram[others, j])
        torch.testing.assert_close(found[others, j].double(), wanted, rtol=1e-4, atol=1e-6)
        assert found[j, j] == 0


def test_it_is_the_mean_over_dropout_and_noise(train):
    """The closed form against the mean of many noised copies, of the same expected loss."""
    ridge, dropout, copies = 4.0, 0.4, 4000
    model = LinearDenoiser(ridge=ridge, dropout=dropout, neighbors=1000).fit(train)
    x = vectors_of(train)
    generator = torch.Generator().manual_seed(0)
    products = torch.zeros(train.n_items, train.n_items, dtype=torch.float64)
    targets = torch.zeros_like(products)
    deviation = (ridge / len(x)) ** 0.5
    for _ in range(copies):
        mask = (torch.rand(x.shape, generator=generator) >= dropout) / (1 - dropout)
        noised = x * mask + deviation * torch.randn(
            x.shape, generator=generator, dtype=torch.float64
        )
        products += noised.t() @ noised / copies
        targets += noised.t() @ x / copies
    found = matrix_of(model, train.n_items)
    for j in range(0, train.n_items, 7):
        others = torch.arange(train.n_items) != j
        wanted = torch.linalg.solve(products[others][:, others], targets[others, j])
        torch.testing.assert_close(found[others, j].double(), wanted, rtol=0.1, atol=0.01)


def test_scores_are_decayed_histories_times_the_matrix(train):
    model = LinearDenoiser(decay=0.5, neighbors=1000).fit(train)
    dense = matrix_of(model, train.n_items)
    histories = train.histories()[np.array([3, 0, 3])]
    scores = model.scores(histories)
    for row, user in zip(scores, (3, 0, 3), strict=True):
        items = train.items[train.indptr[user] : train.indptr[user + 1]]
        wanted = sum(0.5**back * dense[int(item)] for back, item in enumerate(items[::-1]))
        torch.testing.assert_close(row, wanted + torch.zeros(train.n_items), rtol=1e-5, atol=1e-7)
    items = torch.tensor([[1, 5], [0, 2], [7, 7]])
    assert torch.equal(model.scores(histories, items), scores.gather(1, items))
    empty = histories[np.array([0])].only(np.zeros(train.n_items, dtype=bool))
    assert not model.scores(empty).any()


def test_few_neighbours_are_the_largest(train):
    whole = matrix_of(LinearDenoiser(neighbors=1000).fit(train), train.n_items)
    few = LinearDenoiser(neighbors=5).fit(train)
    kept = matrix_of(few, train.n_items)
    assert ((kept == whole) | (kept == 0)).all()
    assert ((kept != 0).sum(0) <= 5).all()
    for column, everything in zip(kept.t(), whole.t(), strict=True):
        left_out = everything[column == 0].abs().max()
        if (column != 0).sum() == 5:
            assert column[column != 0].abs().min() >= left_out


def test_a_corpus_too_large_keeps_its_most_frequent_items(train):
    model = LinearDenoiser(max_size=20, neighbors=1000).fit(train)
    counts = vectors_of(train).sum(0).numpy()
    dense = matrix_of(model, train.n_items)
    used = (dense.abs().sum(0) > 0) | (dense.abs().sum(1) > 0)
    assert 0 < int(used.sum()) <= 20
    assert counts[used.numpy()].min() >= np.sort(counts)[-20]


def test_it_recommends_better_than_popularity():
    split = leave_one_out(synthetic(400, 120, seed=0))
    model = LinearDenoiser(ridge=10.0).fit(split.train)
    found = evaluate(model, split, on=["test"], protocols=["full"])["full"]["test"]["ndcg@10"]
    popular = evaluate(Popularity(split.train), split, on=["test"], protocols=["full"])
    assert found > 1.5 * popular["full"]["test"]["ndcg@10"]


def test_its_contents_give_it_back(train):
    model = LinearDenoiser(ridge=7.0, decay=0.6).fit(train)
    other = LinearDenoiser.from_contents(model.contents(), "somewhere")
    assert (other.config, other.trained_on) == (model.config, train.fingerprint())
    histories = train.histories()
    assert torch.equal(other.scores(histories), model.scores(histories))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ridge", 0.0),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("decay", 0.0),
        ("decay", 1.1),
        ("neighbors", 0),
        ("max_size", 0),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        LinearDenoiser(**{name: value})


def test_what_cannot_be_done(train):
    with pytest.raises(NotFittedError):
        LinearDenoiser().scores(train.histories())
    other = synthetic(9, train.n_items + 1, seed=0)
    with pytest.raises(ValueError, match="index both by the same catalogue"):
        LinearDenoiser().fit(train).scores(other.histories())
    nobody = Interactions(
        np.zeros(2, dtype=np.int64), np.zeros(0), None, np.arange(1), np.arange(3)
    )
    with pytest.raises(DataError, match="nothing to learn"):
        LinearDenoiser().fit(nobody)
