from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pdrec_fast.training import PDRecConfig
from pdrec_fast.training import negatives as negatives_module
from pdrec_fast.training.negatives import (
    RandomNegatives,
    SharedNegativeSampler,
    without_negatives,
)
from tests.rows import interactions_of

ROWS = [[3, 4, 3], [], [0, 19, 18], list(range(1, 20)), list(range(19))]


@pytest.fixture(scope="module")
def negatives() -> RandomNegatives:
    return RandomNegatives(interactions_of(ROWS, 20))


def test_never_observed_and_uniform(negatives: RandomNegatives) -> None:
    users = np.repeat(np.arange(5), 4000)
    drawn = negatives.draw(users, 3, seed=1, epoch=0)
    assert drawn.shape == (20_000, 3)
    assert drawn.dtype == np.int64
    for user, row in enumerate(ROWS):
        allowed = [item for item in range(20) if item not in row]
        counts = np.bincount(drawn[users == user].ravel(), minlength=20)
        assert counts[allowed].sum() == counts.sum() == 12_000
        if len(allowed) > 1:
            assert stats.chisquare(counts[allowed]).pvalue > 1e-3


def test_a_single_item_left_is_found(negatives: RandomNegatives) -> None:
    drawn = negatives.draw(np.array([3, 4, 3]), 2, seed=0, epoch=0)
    assert drawn.tolist() == [[0, 0], [19, 19], [0, 0]]


def test_seed_and_epoch_decide(negatives: RandomNegatives) -> None:
    users = np.repeat(np.arange(3), 100)
    first = negatives.draw(users, 2, seed=4, epoch=7)
    np.testing.assert_array_equal(first, negatives.draw(users, 2, seed=4, epoch=7))
    for seed, epoch in ((4, 8), (5, 7), (7, 4)):
        assert (first != negatives.draw(users, 2, seed=seed, epoch=epoch)).mean() > 0.5


def test_none_wanted(negatives: RandomNegatives) -> None:
    assert negatives.draw(np.array([0, 1]), 0, seed=0, epoch=0).shape == (2, 0)


class Counted:
    """A generator that counts how often it is asked."""

    def __init__(self) -> None:
        self.generator, self.calls = np.random.default_rng(0), 0

    def integers(self, *given: Any, **options: Any) -> Any:
        self.calls += 1
        return self.generator.integers(*given, **options)


def test_few_items_left_cost_no_more_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    train = interactions_of([[3], list(range(9_000)), [*range(40), *range(43, 10_000)]], 10_000)
    counted = Counted()
    monkeypatch.setattr(negatives_module, "random_negatives", lambda *_: counted)
    users = np.repeat([0, 1, 2], 3000)
    drawn = RandomNegatives(train).draw(users, 1, seed=0, epoch=0)[:, 0]
    assert counted.calls < 10
    assert (drawn[users == 0] != 3).all()
    assert drawn[users == 1].min() >= 9_000
    counts = np.bincount(drawn[users == 2])
    assert counts[40:].sum() == counts.sum()
    assert stats.chisquare(counts[40:]).pvalue > 1e-3


def test_who_has_seen_everything_is_left_out_where_negatives_are_a_users_own() -> None:
    train = interactions_of([[0, 1], [0, 2, 1, 1]], 3)
    for settings, left_out in (
        ({"modules": ()}, True),
        ({"modules": ("nns",), "loss": "shared_softmax"}, True),
        ({"modules": ("hbr", "dpa"), "loss": "shared_softmax"}, False),
        ({"modules": (), "loss": "corpus_softmax"}, False),
    ):
        found = without_negatives(train, PDRecConfig(**settings))
        assert found.tolist() == [False, left_out]


def test_shared_negatives_are_uniform_with_their_correction() -> None:
    train = interactions_of(ROWS, 20)
    sampler = SharedNegativeSampler(train, 5000, "uniform", seed=3)
    items, offsets = sampler.draw(0, 0)
    assert items.dtype == torch.int64
    assert stats.chisquare(np.bincount(items, minlength=20)).pvalue > 1e-3
    np.testing.assert_allclose(offsets, np.log(20 / 5000), rtol=1e-6)


def test_shared_negatives_by_popularity_with_their_correction() -> None:
    train = interactions_of([[0, 0, 0, 1], [0, 1, 3], [0]], 5)
    records = np.array([5, 2, 0, 1, 0])
    items, offsets = SharedNegativeSampler(train, 8000, "popularity", seed=3).draw(0, 0)
    counts = np.bincount(items, minlength=5)
    assert counts[records == 0].sum() == 0
    assert stats.chisquare(counts[records > 0], 1000 * records[records > 0]).pvalue > 1e-3
    expected = -np.log(8000 * records[items.numpy()] / 8)
    np.testing.assert_allclose(offsets, expected, rtol=1e-5)


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_seed_epoch_and_step_decide_the_shared_negatives(sampling: str) -> None:
    train = interactions_of(ROWS, 20)

    def drawn(seed: int, epoch: int, step: int) -> list[int]:
        return SharedNegativeSampler(train, 30, sampling, seed).draw(epoch, step)[0].tolist()

    assert drawn(1, 2, 3) == drawn(1, 2, 3)
    others = [(1, 2, 4), (1, 3, 3), (2, 2, 3), (1, 3, 2)]
    assert all(drawn(*other) != drawn(1, 2, 3) for other in others)
