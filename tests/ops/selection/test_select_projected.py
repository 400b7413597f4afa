"""``select_projected`` in PyTorch: the same as the two operations on the scores, and its checks."""

import numpy as np
import pytest
import torch

from pdrec_fast.errors import BackendError
from pdrec_fast.operands import Projection
from pdrec_fast.ops.selection.sample_pool import sample_pool
from pdrec_fast.ops.selection.select_projected import select_projected
from pdrec_fast.ops.selection.select_unobserved import select_unobserved
from pdrec_fast.reference.selection import select_projected as reference

ROWS, ITEMS, HIDDEN = 23, 301, 12
KEYS = {"seed": 2**63 + 5, "epoch": 2**31 + 1, "users": np.arange(ROWS) * 110_000_003}


def corpus(dtype=torch.float32, ties=False):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(ROWS, HIDDEN, generator=generator)
    table = torch.randn(ITEMS, HIDDEN, generator=generator).to(dtype)
    bias = torch.randn(ITEMS, generator=generator)
    if ties:
        table, bias = table[torch.arange(ITEMS) // 3], bias[torch.arange(ITEMS) // 3]
    return vectors, table, bias


def rows(omega=0.5, seed=0):
    """((indptr, items), first_rank); one row has seen nothing, one all but three items."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 12, ROWS)
    sizes[:2] = 0, ITEMS - 3
    items = [np.sort(rng.choice(ITEMS, size, replace=False)) for size in sizes]
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    first_rank = np.floor(omega * (ITEMS - sizes)).astype(np.int64)
    return (indptr, np.concatenate(items).astype(np.int32)), first_rank


def select(matrices, observed, first_rank, top_m=9, n_draws=13, **keywords):
    return select_projected(*matrices, observed, top_m, first_rank, n_draws, **(KEYS | keywords))


@pytest.mark.parametrize("impl", ["materialized", "reference"])
@pytest.mark.parametrize("omega", [0.0, 0.5, 0.995])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("ties", [False, True], ids=["separate", "ties"])
def test_equals_the_two_operations(impl, omega, dtype, ties):
    matrices, (observed, first_rank) = corpus(dtype, ties), rows(omega)
    scores = reference.projected_scores(Projection(*matrices))
    chosen = select_unobserved(scores, observed, 9, first_rank)
    draws = sample_pool(scores, observed, chosen[1], chosen[2], 13, **KEYS)
    of_row = np.repeat(np.arange(ROWS), np.diff(observed[0]))
    found = select(matrices, observed, first_rank, impl=impl)
    for result, expected in zip(found[:3], chosen, strict=True):
        assert torch.equal(result, expected)
    assert torch.equal(found.observed_scores, scores[of_row, observed[1].astype(np.int64)])
    assert torch.equal(found.draws, draws)


def test_autocast_changes_nothing():
    matrices, (observed, first_rank) = corpus(), rows()
    expected = select(matrices, observed, first_rank)
    with torch.autocast("cpu", torch.bfloat16):
        found = select(matrices, observed, first_rank)
    for result, truth in zip(found, expected, strict=True):
        assert torch.equal(result, truth)


def test_scores_are_those_of_float64():
    vectors, table, bias = corpus()
    truth = vectors.double() @ table.double().T + bias.double()
    scores = reference.projected_scores(Projection(vectors, table, bias))
    torch.testing.assert_close(scores.double(), truth, rtol=1e-5, atol=1e-5)


def test_blocks_of_rows_change_nothing(monkeypatch):
    arguments = corpus(), *rows()
    expected = select(*arguments)
    monkeypatch.setattr(reference, "_SCORES_AT_ONCE", 5 * ITEMS)
    for found, result in zip(select(*arguments), expected, strict=True):
        torch.testing.assert_close(found, result)


def test_no_rows():
    observed = np.zeros(1, np.int64), np.empty(0, np.int32)
    vectors, table, bias = corpus()
    found = select((vectors[:0], table, bias), observed, np.empty(0, np.int64), users=[])
    assert [tuple(part.shape) for part in found] == [(0, 9), (0,), (0,), (0,), (0, 13)]


def test_refuses():
    (vectors, table, bias), (observed, first_rank) = corpus(), rows()
    late = np.where(np.arange(ROWS) == 1, 3, first_rank)
    with pytest.raises(ValueError, match=r"0 \.\. 2 in row 1.*got 3: its pool"):
        select((vectors, table, bias), observed, late)
    with pytest.raises(ValueError, match="top_m=-1"):
        select((vectors, table, bias), observed, first_rank, top_m=-1)
    with pytest.raises(ValueError, match="table must be float32 or bfloat16"):
        select((vectors, table.double(), bias), observed, first_rank)
    with pytest.raises(ValueError, match="share H"):
        select((vectors[:, 1:], table, bias), observed, first_rank)
    with pytest.raises(ValueError, match="bias must have shape"):
        select((vectors, table, bias[1:]), observed, first_rank)
    with pytest.raises(ValueError, match="sorted and unique"):
        select((vectors, table, bias), (observed[0], observed[1][::-1].copy()), first_rank)
    vectors[4, 2] = torch.inf
    with pytest.raises(ValueError, match="vectors must be finite, row 4"):
        select((vectors, table, bias), observed, first_rank)


@pytest.mark.parametrize("impl", ["materialized", "reference"])
def test_refuses_nan_scores(impl):
    (vectors, table, bias), arguments = corpus(), rows()
    table[7, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        select((vectors, table, bias), *arguments, impl=impl)


def test_triton_is_named_where_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="triton"):
        select(corpus(), *rows(), impl="triton")
