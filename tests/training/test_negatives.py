import numpy as np
import pytest
from scipy import stats

from pdrec_fast.errors import DataError
from pdrec_fast.training.negatives import RandomNegatives
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


def test_a_user_who_has_seen_everything_is_named() -> None:
    with pytest.raises(DataError, match=r"user 1.*every item"):
        RandomNegatives(interactions_of([[0], [0, 2, 1, 1]], 3))
