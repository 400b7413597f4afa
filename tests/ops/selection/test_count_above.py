"""Counts of scores above and level with a bound."""

import math

import numpy as np
import pytest
import torch

from pdrec_fast.errors import BackendError
from pdrec_fast.ops.selection.count_above import count_above


def counted(scores, bounds, **options):
    return [count.tolist() for count in count_above(scores, bounds, **options)]


def test_by_hand(impl):
    nan, inf = math.nan, math.inf
    scores = torch.tensor(
        [[1.0, 2.0, 2.0, 3.0, nan], [0.0, -0.0, -1.0, 1e-45, inf], [-inf, inf, inf, 0.0, nan]]
    )
    bounds = torch.tensor([2.0, -0.0, inf])
    assert counted(scores, bounds, impl=impl) == [[1, 2, 0], [2, 2, 2], [1, 0, 1]]
    assert counted(scores, torch.full((3,), nan), impl=impl) == [[0] * 3, [0] * 3, [1, 0, 1]]


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 15), (2, 16), (5, 1023), (7, 40_001), (0, 4), (4, 0)]
)
def test_equals_numpy(impl, shape):
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 4, size=shape).astype(np.float32)
    scores[rng.random(shape) < 0.05] = np.nan
    bounds = rng.integers(-3, 4, size=shape[0]).astype(np.float32)
    expected = [
        (scores > bounds[:, None]).sum(1),
        (scores == bounds[:, None]).sum(1),
        np.isnan(scores).sum(1),
    ]
    found = count_above(torch.from_numpy(scores), torch.from_numpy(bounds), impl=impl)
    for actual, wanted in zip(found, expected, strict=True):
        assert actual.dtype == torch.int64
        assert np.array_equal(actual.numpy(), wanted)


def test_many_threads_count_every_row(impl):
    scores = torch.randn(900, 20_000, generator=torch.Generator().manual_seed(0))
    bounds = scores[:, 5].clone()
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        found = count_above(scores, bounds, impl=impl)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found.greater, (scores > bounds[:, None]).sum(1))
    assert torch.equal(found.equal, (scores == bounds[:, None]).sum(1))


def test_rows_that_lie_apart_are_read_where_they_are(impl):
    table = torch.arange(60.0).reshape(5, 12)
    before = table.clone()
    scores, bounds = table[1:4, 2:9], table[:, ::4][1:4, 1]
    assert counted(scores, bounds, impl=impl)[:2] == [[4, 4, 4], [1, 1, 1]]
    assert torch.equal(table, before)


def test_other_dtypes_and_layouts_are_counted_without_a_word(caplog):
    scores = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    for dtype in (torch.float64, torch.bfloat16, torch.int64):
        bounds = torch.tensor([2, 6], dtype=dtype)
        assert counted(scores.to(dtype), bounds)[:2] == [[1, 0], [1, 1]]
    assert counted(scores.T, torch.tensor([1.0, 2.0, 9.0]))[:2] == [[1, 1, 0], [1, 1, 0]]
    assert not caplog.records
    with pytest.raises(BackendError, match="float32 on a CPU"):
        count_above(scores.double(), torch.zeros(2).double(), impl="cpp")
    with pytest.raises(BackendError, match="adjacent"):
        count_above(scores.T, torch.zeros(3), impl="cpp")


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3,\)"):
        count_above(torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="got shapes"):
        count_above(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match="unknown impl"):
        count_above(torch.zeros(2, 3), torch.zeros(2), impl="numba")
