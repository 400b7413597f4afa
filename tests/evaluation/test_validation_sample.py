"""Some of the validation cases."""

import numpy as np
import pytest

from pdrec_fast.evaluation import Evaluator, validation_sample


def test_cases_stay_what_they_are(split, scorer):
    sample = validation_sample(split, 13, seed=3)
    kept = np.searchsorted(split.valid.users, sample.valid.users)
    assert len(set(kept.tolist())) == 13
    assert (np.diff(kept) > 0).all()
    assert sample.test is split.test
    for protocol in ("paper", "full"):
        whole = Evaluator(split).ranks(scorer, protocol)
        part = Evaluator(sample).ranks(scorer, protocol)
        assert np.array_equal(part.greater, whole.greater[kept])
        assert np.array_equal(part.candidates, whole.candidates[kept])


@pytest.mark.parametrize("n_users", [0, 60, 61, 10**9])
def test_all_are_all(split, n_users):
    assert len(split.valid) == 60
    assert validation_sample(split, n_users, seed=3) is split


def test_the_seed_fixes_the_sample_and_larger_ones_hold_smaller(split):
    def users(n_users, seed):
        return set(validation_sample(split, n_users, seed).valid.users.tolist())

    assert users(13, 3) == users(13, 3) < users(30, 3)
    assert users(13, 3) != users(13, 4)


def test_every_case_is_as_likely(split):
    counts = np.zeros(split.data.n_users)
    for seed in range(400):
        counts[validation_sample(split, 15, seed).valid.users] += 1
    # Binomial(400, 1/4) has a standard deviation of 8.7.
    assert np.abs(counts - 100).max() < 4 * 8.7
