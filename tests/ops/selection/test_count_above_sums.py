"""Counts of weighted sums above and level with a bound."""

import math

import numpy as np
import pytest
import torch

from pdrec_fast.errors import BackendError
from pdrec_fast.ops.selection.count_above_sums import count_above_sums


def test_by_hand(impl):
    logits, scores = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.0, 1.0, -1.0]])
    bounds = torch.tensor([[1.0], [0.0]])
    found = count_above_sums(logits, scores, torch.tensor([0.0, 1.0, 2.0]), bounds, impl=impl)
    # Sums (1, 0, 2), (1, 1, 1) and (1, 2, 0) against 1.
    assert [count.tolist() for count in found] == [[[1, 0, 1]], [[1, 3, 1]], [[0, 0, 0]]]


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 15), (2, 16), (5, 1023), (7, 40_001), (0, 4), (4, 0)]
)
def test_equals_numpy(impl, shape):
    rng = np.random.default_rng(1)
    logits, scores = rng.normal(size=(2, *shape)).astype(np.float32).round(1)
    scores[rng.random(shape) < 0.01] = math.nan
    logits[rng.random(shape) < 0.01] = -math.inf
    bounds = rng.normal(size=(2, shape[0])).astype(np.float32).round(1)
    weights = np.array([0.0, 0.3, 2.0], dtype=np.float32)
    given = (torch.from_numpy(each) for each in (logits, scores, weights, bounds))
    found = count_above_sums(*given, impl=impl)
    for k, weight in enumerate(weights):
        sums, bound = logits + weight * scores, (bounds[0] + weight * bounds[1])[:, None]
        wanted = (sums > bound).sum(1), (sums == bound).sum(1), np.isnan(sums).sum(1)
        for actual, expected in zip(found, wanted, strict=True):
            assert actual.dtype == torch.int64
            assert np.array_equal(actual[:, k].numpy(), expected)


def test_rows_that_lie_apart(impl):
    both = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(0))
    logits, scores = both[:, :, ::2]
    assert not logits.is_contiguous()
    given = torch.tensor([0.5]), torch.zeros(2, 6)
    found = count_above_sums(logits, scores, *given, impl=impl)
    assert torch.equal(found.greater[:, 0], (logits + 0.5 * scores > 0).sum(1))


def test_refuses_what_does_not_fit():
    two, weights = torch.zeros(2, 3), torch.ones(1)
    short = two[:, :2]
    for changed in ((two, short, weights, short), (two, two, weights, two)):
        with pytest.raises(ValueError, match="must be"):
            count_above_sums(*changed)
    with pytest.raises(ValueError, match="at least one"):
        count_above_sums(two, two, weights[:0], two[:, :2])
    with pytest.raises(BackendError, match="float32 on a CPU"):
        count_above_sums(two.double(), two, weights, two[:, :2], impl="cpp")
