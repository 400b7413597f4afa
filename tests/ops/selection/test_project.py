"""Corpus scores from user vectors, by either library."""

import pytest
import torch

from pdrec_fast.buffers import Buffers
from pdrec_fast.errors import BackendError
from pdrec_fast.ops.selection import project as projection
from pdrec_fast.ops.selection.project import project
from pdrec_fast.reference.selection import project as reference

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN"
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    vectors, table = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.5, -1.0]])
    assert project(vectors, table).tolist() == [[11.0, -1.5]]
    assert project(vectors, table, torch.tensor([1.0, 2.0])).tolist() == [[12.0, 0.5]]


def test_reference_by_hand():
    vectors, table = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.5, -1.0]])
    found = reference.project(vectors, table, torch.tensor([1.0, 2.0]))
    assert found.dtype == torch.float64
    assert found.tolist() == [[12.0, 0.5]]
    assert reference.project(vectors, table).tolist() == [[11.0, -1.5]]


@needs_onednn
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 5), (65, 1001, 33), (0, 7, 3)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_onednn_is_as_exact_as_torch(shape, with_bias):
    n_rows, n_items, width = shape
    vectors, table = normal(n_rows, width), normal(n_items, width, seed=1)
    bias = normal(n_items, seed=2) if with_bias else None
    actual = project(vectors, table, bias, impl="onednn")
    truth = reference.project(vectors, table, bias)
    assert actual.shape == (n_rows, n_items)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), truth, rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("with_bias", [True, False])
def test_without_torchs_fused_product_the_scores_are_the_same(with_bias, monkeypatch):
    vectors, table = normal(65, 33), normal(1001, 33, seed=1)
    bias = normal(1001, seed=2) if with_bias else None
    expected = project(vectors, table, bias, impl="onednn")
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", None)
    assert torch.equal(project(vectors, table, bias, impl="onednn"), expected)


@needs_onednn
@pytest.mark.parametrize("with_bias", [True, False])
def test_many_items_are_multiplied_some_at_a_time_in_memory_that_is_lent(with_bias, monkeypatch):
    vectors, table = normal(300, 33), normal(1001, 33, seed=1)
    bias = normal(1001, seed=2) if with_bias else None
    monkeypatch.setattr(projection, "_MANY_ITEMS", 1000)
    monkeypatch.setattr(projection, "_ITEMS_PER_TILE", 64)
    buffers = Buffers()
    with buffers.lent():
        scores = project(vectors, table, bias, impl="onednn")
    truth = reference.project(vectors, table, bias)
    torch.testing.assert_close(scores.double(), truth, rtol=1e-5, atol=1e-5)
    assert buffers.free_bytes == 0
    del scores
    assert buffers.free_bytes == 4 * 300 * 1001


@pytest.mark.parametrize(
    ("n_items", "rows"),
    [(1, 1 << 22), (37_868, 110), (131_072, 32), (1_000_000, 32), (3_000_000, 11), (10**8, 8)],
)
def test_rows_per_block(n_items, rows):
    assert projection.rows_per_block(n_items) == rows
    assert projection.rows_per_block(n_items, on_gpu=True) == max((1 << 27) // n_items, 1)


@needs_onednn
def test_strided_inputs_and_parameters():
    vectors, table = normal(9, 12)[:, ::2], torch.nn.Parameter(normal(6, 301).T)
    actual = project(vectors, table, impl="onednn")
    assert not actual.requires_grad
    torch.testing.assert_close(actual, vectors @ table.detach().T, rtol=1e-5, atol=1e-5)


def test_auto_serves_every_dtype_and_size():
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        scores = project(normal(2, 3).to(dtype), normal(4, 3).to(dtype))
        assert scores.dtype == dtype
    large = project(normal(64, 64), normal(2048, 64, seed=1))
    torch.testing.assert_close(large, normal(64, 64) @ normal(2048, 64, seed=1).T)


def test_a_named_implementation_does_not_fall_back():
    with pytest.raises(BackendError, match="float32 on a CPU"):
        project(normal(2, 3).double(), normal(4, 3).double(), impl="onednn")
    with pytest.raises(ValueError, match=r"unknown impl='mkl'.*onednn"):
        project(normal(2, 3), normal(4, 3), impl="mkl")
