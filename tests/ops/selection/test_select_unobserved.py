"""``select_unobserved`` against hand-made cases and a plain sort in Python."""

import numpy as np
import pytest
import torch

from pdrec_fast.ops.selection.select_unobserved import select_unobserved


def rows(*lists):
    """Observed items as (indptr, items)."""
    indptr = np.cumsum([0, *map(len, lists)])
    return indptr, np.array([item for each in lists for item in each], dtype=np.int32)


def expected(scores, observed, top_m, first_rank):
    """Top items, threshold scores and items by the definition."""
    indptr, items = observed
    top, threshold = [], []
    for row, values in enumerate(scores.tolist()):
        left_out = set(items[indptr[row] : indptr[row + 1]].tolist())
        order = sorted(set(range(len(values))) - left_out, key=lambda i: (-values[i], i))
        top.append((order[:top_m] + [-1] * top_m)[:top_m])
        threshold.append(order[int(first_rank[row])])
    return top, threshold


def check(scores, observed, top_m, first_rank, impl):
    before = scores.clone()
    found = select_unobserved(scores, observed, top_m, first_rank, impl=impl)
    top, threshold = expected(scores, observed, top_m, first_rank)
    assert found.top_items.tolist() == top
    assert found.threshold_item.tolist() == threshold
    assert torch.equal(
        found.threshold_score, scores.gather(1, torch.tensor(threshold)[:, None])[:, 0]
    )
    assert torch.equal(scores, before)
    assert [t.dtype for t in found] == [torch.int32, torch.float32, torch.int32]


def random_observed(rng, n_rows, n_items, most):
    return rows(
        *(
            sorted(rng.choice(n_items, rng.integers(0, most + 1), replace=False).tolist())
            for _ in range(n_rows)
        )
    )


def test_hand_case(impl):
    scores = torch.tensor([[0.5, 2.0, 2.0, -1.0, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    found = select_unobserved(scores, rows([4], [0, 2]), 3, np.array([2, 1]), impl=impl)
    assert found.top_items.tolist() == [[1, 2, 0], [1, 3, 4]]
    assert found.threshold_item.tolist() == [0, 3]
    assert found.threshold_score.tolist() == [0.5, 1.0]


def test_zeros_of_both_signs_are_equal_and_infinities_are_ordered(impl):
    inf = float("inf")
    scores = torch.tensor([[0.0, -0.0, inf, -inf, -0.0, 0.0, -1e-45, 1e-45, -inf, inf]])
    found = select_unobserved(scores, rows([]), 10, np.array([4]), impl=impl)
    assert found.top_items.tolist() == [[2, 9, 7, 0, 1, 4, 5, 6, 3, 8]]
    assert found.threshold_item.tolist() == [1]


def test_missing_top_items_are_minus_one(impl):
    scores = torch.tensor([[3.0, 1.0, 2.0]])
    found = select_unobserved(scores, rows([0]), 5, np.array([1]), impl=impl)
    assert found.top_items.tolist() == [[2, 1, -1, -1, -1]]


def test_no_top_items_and_no_rows(impl):
    found = select_unobserved(torch.tensor([[1.0]]), rows([]), 0, np.array([0]), impl=impl)
    assert found.top_items.shape == (1, 0)
    assert found.threshold_item.tolist() == [0]
    found = select_unobserved(torch.zeros(0, 4), rows(), 3, np.zeros(0, np.int64), impl=impl)
    assert found.top_items.shape == (0, 3)


@pytest.mark.parametrize("seed", range(40))
def test_small_rows(seed, impl):
    rng = np.random.default_rng(seed)
    n_rows, n_items = rng.integers(1, 6), rng.integers(1, 90)
    levels = rng.integers(1, 30)
    scores = torch.from_numpy(rng.integers(0, levels, (n_rows, n_items)).astype(np.float32))
    observed = random_observed(rng, n_rows, n_items, n_items - 1)
    first_rank = rng.integers(0, n_items - np.diff(observed[0]))
    check(scores, observed, int(rng.integers(0, n_items + 3)), first_rank, impl)


def score_rows(rng, n):
    normal = rng.standard_normal(n)
    with_infinities = np.where(rng.random(n) < 0.3, -np.inf, normal)
    with_infinities[rng.random(n) < 0.1] = np.inf
    return {
        "normal": normal,
        "ascending": np.sort(normal),
        "descending": -np.sort(-normal),
        "long tail": np.exp(4 * normal),
        "periodic": np.sin(np.arange(n) * 2 * np.pi / 148) * 100,
        "few levels": np.round(normal),
        "two levels": rng.random(n) < 0.5,
        "one high level": rng.random(n) < 0.001,
        "all equal": np.full(n, 0.25),
        "tied bulk": np.where(rng.random(n) < 0.9, 0.0, normal),
        "infinities": with_infinities,
    }


@pytest.mark.parametrize("quantile", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("n_items", [513, 9001])
def test_long_rows_of_many_kinds(n_items, quantile, impl):
    rng = np.random.default_rng(n_items)
    scores = torch.from_numpy(np.stack(list(score_rows(rng, n_items).values())).astype(np.float32))
    observed = random_observed(rng, len(scores), n_items, 40)
    n_unobserved = n_items - np.diff(observed[0])
    check(scores, observed, 50, np.floor(quantile * (n_unobserved - 1)).astype(np.int64), impl)


@pytest.mark.parametrize("share", [0.5, 0.99, 0.9999])
def test_most_items_observed_the_best_among_them(share, impl):
    rng = np.random.default_rng(3)
    scores = torch.from_numpy(rng.standard_normal((2, 10_001)).astype(np.float32))
    n_observed = int(share * scores.shape[1])
    best = scores.argsort(dim=1, descending=True)[:, :n_observed].numpy()
    observed = rows(*(sorted(each.tolist()) for each in best))
    left = scores.shape[1] - n_observed
    check(scores, observed, 20, np.array([0, left - 1]), impl)


def test_all_items_wanted(impl):
    rng = np.random.default_rng(4)
    scores = torch.from_numpy(rng.standard_normal((1, 3000)).astype(np.float32))
    check(scores, rows([5, 6, 2999]), 3000, np.array([1234]), impl)


def test_non_contiguous_scores(impl):
    base = torch.from_numpy(np.random.default_rng(5).standard_normal((700, 6)).astype(np.float32))
    check(base.t()[::2], rows([1], [], [0, 699]), 7, np.array([0, 350, 690]), impl)


def test_result_does_not_depend_on_the_number_of_threads(impl):
    rng = np.random.default_rng(6)
    scores = torch.from_numpy(rng.integers(0, 99, (37, 801)).astype(np.float32))
    observed = random_observed(rng, 37, 801, 30)
    first_rank = rng.integers(0, 700, 37)
    threads = torch.get_num_threads()
    results = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        results.append(select_unobserved(scores, observed, 11, first_rank, impl=impl))
    torch.set_num_threads(threads)
    assert all(map(torch.equal, *results))


def test_nan_is_named_by_row_and_column(impl):
    scores = torch.zeros(3, 200)
    scores[1, 177] = scores[1, 199] = scores[2, 0] = float("nan")
    with pytest.raises(ValueError, match="row 1, column 177"):
        select_unobserved(scores, rows([], [177], []), 5, np.zeros(3, np.int64), impl=impl)


@pytest.mark.parametrize("rank", [-1, 2])
def test_rank_outside_the_unobserved_is_an_empty_pool(rank, impl):
    with pytest.raises(ValueError, match=r"first_rank must lie in 0 \.\. 1 in row 1.*empty"):
        select_unobserved(torch.zeros(2, 3), rows([], [1]), 1, np.array([0, rank]), impl=impl)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(2, 3, dtype=torch.float64)}, "float32 CPU tensor"),
        ({"scores": torch.zeros(6)}, r"shape \[B, N\]"),
        ({"observed": rows([2, 1], [])}, "row 0 has 2 before 1"),
        ({"observed": rows([], [1, 1])}, "row 1 has 1 before 1"),
        ({"observed": rows([0], [3])}, "0 .. 2, got 3 at 1"),
        ({"observed": rows([0])}, r"shape \[3\]"),
        ({"top_m": -1}, "top_m must be at least 0, got -1"),
        ({"first_rank": np.zeros(3, np.int64)}, r"first_rank must have shape \[2\]"),
        ({"first_rank": np.zeros(2)}, "first_rank must hold int64, got float64"),
        ({"impl": "triton"}, "unknown impl='triton'"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {
        "scores": torch.zeros(2, 3),
        "observed": rows([0], [1]),
        "top_m": 1,
        "first_rank": np.zeros(2, np.int64),
    }
    with pytest.raises(ValueError, match=message):
        select_unobserved(**(arguments | change))
