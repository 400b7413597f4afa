from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdrec_fast.preferences.reweighting import hbr_weights, ranks_within

UNCLIPPED = {"clip": 1e9, "rescale": 1.0}


def indptr_of(*lengths: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def weights_of(
    scores: list[float], lengths: tuple[int, ...] | None = None, **options: float
) -> np.ndarray:
    values = np.array(scores, dtype=np.float32)
    indptr = indptr_of(*(lengths or (len(scores),)))
    options = {"rank_weight": 0.1, **UNCLIPPED, **options}
    return hbr_weights(indptr, values, np.arange(len(values)), **options)


def test_ranks_are_within_each_row() -> None:
    scores = np.array([0.1, 0.9, 0.5, 7.0, -1.0, 3.0], dtype=np.float32)
    ranks = ranks_within(indptr_of(3, 0, 1, 2), scores, np.arange(6))
    assert ranks.tolist() == [3, 1, 2, 1, 2, 1]
    assert ranks.dtype == np.int32


def test_tied_ranks_go_to_the_lower_item_then_the_earlier_record() -> None:
    scores = np.array([1.0, 1.0, 1.0, 2.0], dtype=np.float32)
    ranks = ranks_within(indptr_of(4), scores, np.array([5, 2, 5, 9]))
    assert ranks.tolist() == [3, 2, 4, 1]


def test_equation_2_by_hand() -> None:
    # norm(o) = 0, 1/4, 1/2, 1 sums to 7/4, so ω_s = 16/7; the ranks are 4, 3, 2, 1.
    expected = [
        0.9 * 0 + 0.1 * 1 / 4,
        0.9 * (16 / 7) * (1 / 4) + 0.1 * 2 / 4,
        0.9 * (16 / 7) * (1 / 2) + 0.1 * 3 / 4,
        0.9 * (16 / 7) * 1 + 0.1 * 1,
    ]
    np.testing.assert_allclose(weights_of([1.0, 2.0, 3.0, 5.0]), expected, rtol=1e-6)


def test_rank_weight_alone() -> None:
    weights = weights_of([0.3, -4.0, 9.0], rank_weight=1.0)
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3, 1.0], rtol=1e-6)


def test_clip_then_rescale() -> None:
    # Without ranks the weights of 0, 1, 2, 9 are 0, 1/3, 2/3, 3.
    weights = weights_of([0.0, 1.0, 2.0, 9.0], rank_weight=0.0, clip=2.5, rescale=4.0)
    np.testing.assert_allclose(weights, [0.0, 4 / 3, 8 / 3, 10.0], rtol=1e-6)


def test_a_single_positive_weighs_one() -> None:
    np.testing.assert_allclose(weights_of([-3.5]), [1.0], rtol=1e-6)


def test_equal_preferences_differ_by_rank_alone() -> None:
    weights = weights_of([2.0, 2.0, 2.0, 2.0], rank_weight=0.2)
    np.testing.assert_allclose(weights, 0.8 + 0.2 * np.array([1, 0.75, 0.5, 0.25]), rtol=1e-6)


def test_rows_do_not_see_each_other_and_may_be_empty() -> None:
    first, second = [1.0, 2.0, 3.0, 5.0], [400.0, 100.0]
    together = weights_of(first + second, (0, 4, 0, 0, 2, 0))
    assert together.tolist() == weights_of(first).tolist() + weights_of(second).tolist()


def test_no_positive_at_all() -> None:
    weights = weights_of([], (0, 0))
    assert weights.shape == (0,)
    assert weights.dtype == np.float32


def test_infinitesimal_spans_stay_finite() -> None:
    weights = weights_of([1.0, float(np.nextafter(np.float32(1), np.float32(2)))])
    np.testing.assert_allclose(weights, [0.1 / 2, 0.9 * 2 + 0.1], rtol=1e-6)


@given(st.lists(st.lists(st.integers(-50, 50), max_size=6), min_size=1, max_size=5))
def test_the_normalised_part_averages_one_in_every_row(rows: list[list[int]]) -> None:
    lengths = tuple(len(row) for row in rows)
    weights = weights_of([float(v) for row in rows for v in row], lengths, rank_weight=0.0)
    bounds = indptr_of(*lengths)
    for start, stop in pairwise(bounds):
        if stop > start:
            assert weights[start:stop].mean() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rank_weight", -0.1),
        ("rank_weight", 1.1),
        ("rank_weight", float("nan")),
        ("clip", 0.0),
        ("rescale", -1.0),
    ],
)
def test_options_out_of_range_are_named(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option}.*{value}"):
        weights_of([1.0, 2.0], **{option: value})
