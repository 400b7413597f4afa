"""Sampled negatives: distinct, uniform, and the same for a user whatever else is evaluated."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from pdrec_fast.data import Holdout, Interactions, leave_one_out
from pdrec_fast.evaluation import sample_negatives
from tests.evaluation.cases import items_of


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
