import numpy as np
import pytest

from pdrec_fast.data import leave_one_out, synthetic

DAY = 86_400


@pytest.fixture(scope="module")
def data():
    return synthetic()


def steps(data, first_user, last_user):
    """Items and their followers within the users' sequences."""
    start, stop = data.indptr[first_user], data.indptr[last_user]
    items, users = data.items[start:stop], data.record_users[start:stop]
    same = users[1:] == users[:-1]
    return items[:-1][same], items[1:][same]


def hit_rate_at_10(scores, targets):
    above = (scores > np.take_along_axis(scores, targets[:, None], axis=1)).sum(axis=1)
    return (above < 10).mean()


def next_item_hit_rates(data):
    """Hit rates on half of the users of models counted on the other half.

    First-order Markov, the same with its transitions turned round, and popularity.
    """
    half = data.n_users // 2
    counts = np.zeros((data.n_items, data.n_items))
    np.add.at(counts, steps(data, 0, half), 1)
    popularity = counts.sum(axis=0) / counts.sum()
    before, after = steps(data, half, data.n_users)
    return (
        hit_rate_at_10(counts[before] + 0.1 * popularity, after),
        hit_rate_at_10(counts.T[before] + 0.1 * popularity, after),
        hit_rate_at_10(np.broadcast_to(popularity, (len(after), data.n_items)), after),
    )


def test_sizes_and_lengths(data):
    lengths = np.diff(data.indptr)
    assert (data.n_users, data.n_items) == (2000, 3000)
    assert lengths.min() == 3
    assert 8 <= np.median(lengths) <= 10
    assert 12 <= lengths.mean() <= 16
    assert lengths.max() > 80
    assert data.summary()["density"] < 0.01


def test_popularity_has_a_long_tail(data):
    counts = np.sort(np.bincount(data.items, minlength=data.n_items))[::-1]
    assert counts[: data.n_items // 10].sum() > 0.3 * data.n_records
    assert np.median(counts) < 0.7 * counts.mean()


def test_few_repeats(data):
    assert len(data.unique_items().values) > 0.9 * data.n_records


def test_sessions_are_short_and_apart(data):
    gaps = np.diff(data.timestamps)[np.diff(data.record_users) == 0]
    within = gaps < 0.1 * DAY
    assert 0.5 < within.mean() < 0.9
    assert np.median(gaps[within]) < 600
    assert 3 * DAY < np.median(gaps[~within]) < 21 * DAY
    assert (data.timestamps == np.floor(data.timestamps)).all()


def test_some_users_have_one_session_and_most_have_several(data):
    spans = data.timestamps[data.indptr[1:] - 1] - data.timestamps[data.indptr[:-1]]
    assert 0.1 < (spans < DAY).mean() < 0.4


def test_the_order_carries_signal(data):
    markov, turned_round, popularity = next_item_hit_rates(data)
    assert markov > 3 * popularity
    # Clusters alone would give both directions the same; successors have one.
    assert markov > 1.5 * turned_round


def test_noise_hides_the_signal():
    clean = next_item_hit_rates(synthetic(noise=0))[0]
    noisy = next_item_hit_rates(synthetic(noise=0.5))[0]
    assert noisy < 0.6 * clean


def test_every_user_can_be_evaluated(data):
    split = leave_one_out(data)
    assert len(split.test) == data.n_users


def test_seed_decides(data):
    assert synthetic().fingerprint() == data.fingerprint()
    assert synthetic(seed=1).fingerprint() != data.fingerprint()


@pytest.mark.parametrize(("n_users", "n_items"), [(1, 10), (3, 11), (50, 97)])
def test_small_sizes(n_users, n_items):
    data = synthetic(n_users, n_items, seed=3)
    assert (data.n_users, data.n_items) == (n_users, n_items)
    assert np.diff(data.indptr).min() >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_users": 0}, "n_users must be at least 1, got 0"),
        ({"n_items": 9}, "n_items must be at least 10, got 9"),
        ({"noise": 1.0}, r"noise must lie in \[0, 1\), got 1\.0"),
        ({"noise": float("nan")}, "noise must lie"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic(**arguments)
