"""``sample_pool``: definition, support and distribution of the draws."""

import numpy as np
import pytest
import torch
from scipy import stats

from pdrec_fast.ops.selection.sample_pool import sample_pool
from pdrec_fast.ops.selection.select_unobserved import select_unobserved
from pdrec_fast.reference.counter_rng import words


def case(n_rows, n_items, omega, seed=0, n_observed=9):
    """Scores with ties, observed items, and the thresholds at share ``omega``."""
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(0, 30, (n_rows, n_items)).round().astype(np.float32))
    items = [np.sort(rng.choice(n_items, n_observed, replace=False)) for _ in range(n_rows)]
    observed = np.arange(n_rows + 1) * n_observed, np.concatenate(items).astype(np.int32)
    rank = np.full(n_rows, int(omega * (n_items - n_observed)))
    chosen = select_unobserved(scores, observed, 0, rank, impl="reference")
    return scores, observed, chosen.threshold_score, chosen.threshold_item


def pool_of(row, scores, observed, threshold_score, threshold_item):
    """The pool as a list, from the definition."""
    indptr, items = observed
    left_out = set(items[indptr[row] : indptr[row + 1]].tolist())
    first = (-threshold_score[row].item(), threshold_item[row].item())
    values = scores[row].tolist()
    return [i for i, v in enumerate(values) if i not in left_out and (-v, i) >= first]


def draws_by_definition(pool, n_items, n_draws, key, replace):
    """The draws of one row in plain Python."""
    draws, n_words = [], 4096
    listed = len(pool) * 64 < n_items
    for word in words(*key, n_words, 2)[0].tolist():
        item = pool[word * len(pool) >> 32] if listed else word * n_items >> 32
        if item in pool and (replace or item not in draws):
            draws.append(item)
        if len(draws) == n_draws:
            return draws
    raise AssertionError("too few words for this test")


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("omega", [0.0, 0.5, 0.97, 0.99])
@pytest.mark.parametrize("n_items", [65, 1000])
def test_draws_follow_the_definition(n_items, omega, replace, impl):
    arguments = case(5, n_items, omega)
    users = np.array([3, 0, 2**32 - 1, 8, 9])
    n_draws = 9 if omega < 0.9 else 1
    draws = sample_pool(
        *arguments, n_draws, seed=2**40 + 5, users=users, epoch=6, replace=replace, impl=impl
    )
    assert draws.dtype == torch.int32
    for row, user in enumerate(users):
        pool = pool_of(row, *arguments)
        key = (2**40 + 5, 6, np.array([user]))
        assert draws[row].tolist() == draws_by_definition(pool, n_items, n_draws, key, replace)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("omega", [0.0, 0.5, 0.95, 0.995])
def test_implementations_and_thread_counts_agree(omega, replace, impl):
    arguments = case(33, 3001, omega, seed=1)
    keywords = {"seed": 11, "users": np.arange(33) * 7, "replace": replace}
    expected = sample_pool(*arguments, 14, **keywords, impl="reference")
    threads = torch.get_num_threads()
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        assert torch.equal(sample_pool(*arguments, 14, **keywords, impl=impl), expected)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("omega", [0.4, 0.992])
def test_draws_are_uniform_over_the_rank_interval(omega, impl):
    scores, observed, *threshold = case(40, 2000, omega, seed=2, n_observed=0)
    draws = sample_pool(scores, observed, *threshold, 500, seed=3, users=np.arange(40), impl=impl)
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = order.argsort(dim=1).gather(1, draws.long()).numpy()
    first = int(omega * 2000)
    assert ranks.min() >= first
    n_bins = min(16, 2000 - first)
    counts, _ = np.histogram(ranks, bins=n_bins, range=(first, 2000))
    assert stats.chisquare(counts).pvalue > 1e-4


def test_without_replacement_the_whole_pool_can_be_drawn_each_item_once(impl):
    for omega in (0.2, 0.99):
        arguments = case(3, 400, omega, seed=4)
        pools = [pool_of(row, *arguments) for row in range(3)]
        draws = sample_pool(
            *arguments, len(pools[0]), seed=0, users=np.arange(3), replace=False, impl=impl
        )
        assert [sorted(row) for row in draws.tolist()] == pools


def test_draws_without_replacement_are_uniform_too(impl):
    scores, observed, *threshold = case(3000, 20, 0.5, seed=5, n_observed=0)
    keywords = {"seed": 8, "users": np.arange(3000), "replace": False}
    draws = sample_pool(scores, observed, *threshold, 4, **keywords, impl=impl)
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = order.argsort(dim=1).gather(1, draws.long()).numpy()
    for position in range(4):
        counts = np.bincount(ranks[:, position] - 10, minlength=10)
        assert stats.chisquare(counts).pvalue > 1e-4


def test_a_row_depends_on_its_key_not_on_the_batch(impl):
    scores, (indptr, items), score, item = case(8, 500, 0.5, seed=6)
    users = np.arange(8) + 100
    whole = sample_pool(scores, (indptr, items), score, item, 20, seed=1, users=users, impl=impl)
    half = items[indptr[4] :]
    part = sample_pool(
        scores[4:],
        (indptr[4:] - indptr[4], half),
        score[4:],
        item[4:],
        7,
        seed=1,
        users=users[4:],
        impl=impl,
    )
    assert torch.equal(part, whole[4:, :7])


def test_seed_epoch_and_user_each_change_the_draws(impl):
    arguments = case(1, 500, 0.5, seed=7)

    def draw(seed, epoch, user):
        keywords = {"seed": seed, "epoch": epoch, "users": np.array([user])}
        return tuple(sample_pool(*arguments, 20, **keywords, impl=impl)[0].tolist())

    keys = [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len({draw(*key) for key in keys}) == len(keys)


def test_pool_of_one_item_and_no_draws(impl):
    arguments = case(2, 500, 1 - 1e-9, seed=8)
    keywords = {"seed": 0, "users": np.arange(2), "impl": impl}
    pools = [pool_of(row, *arguments) for row in range(2)]
    assert [len(pool) for pool in pools] == [1, 1]
    assert sample_pool(*arguments, 3, **keywords).tolist() == [pool * 3 for pool in pools]
    assert sample_pool(*arguments, 1, replace=False, **keywords).tolist() == pools
    assert sample_pool(*arguments, 0, **keywords).shape == (2, 0)


def test_non_contiguous_scores(impl):
    scores, *rest = case(6, 300, 0.5, seed=9)
    wide = torch.zeros(6, 600)
    wide[:, ::2] = scores
    keywords = {"seed": 0, "users": np.arange(6), "impl": impl}
    expected = sample_pool(scores, *rest, 5, **keywords)
    assert torch.equal(sample_pool(wide[:, ::2], *rest, 5, **keywords), expected)


def test_empty_pool_is_refused(impl):
    scores, observed, score, item = case(3, 100, 0.5)
    score[1] = float("-inf")
    with pytest.raises(ValueError, match="row 1 has a pool of 0 items"):
        sample_pool(scores, observed, score, item, 1, seed=0, users=np.arange(3), impl=impl)


def test_more_draws_than_items_without_replacement_are_refused(impl):
    arguments = case(3, 109, 0.9)
    with pytest.raises(ValueError, match="row 0 has a pool of 10 items, too few for n_draws=11"):
        sample_pool(*arguments, 11, seed=0, users=np.arange(3), replace=False, impl=impl)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_draws": -1}, "n_draws must be at least 0, got -1"),
        ({"seed": -1}, "seed must lie in"),
        ({"seed": 2**64}, "seed must lie in"),
        ({"epoch": 2**32}, "epoch must lie in"),
        ({"users": np.array([0, -1])}, r"users must lie in .*, got -1 in row 1"),
        ({"users": np.arange(3)}, r"users must have shape \[2\]"),
        ({"threshold_score": torch.zeros(1)}, r"threshold_score must have shape \[2\]"),
        ({"threshold_item": np.zeros(2)}, "threshold_item must hold int32"),
    ],
)
def test_bad_arguments(change, message):
    names = ("scores", "observed", "threshold_score", "threshold_item")
    arguments = dict(zip(names, case(2, 50, 0.5), strict=True))
    arguments |= {"n_draws": 1, "seed": 0, "users": np.arange(2)}
    with pytest.raises(ValueError, match=message):
        sample_pool(**(arguments | change))
