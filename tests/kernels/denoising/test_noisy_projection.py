"""``noisy_projection`` in Triton: values, gradient and mask against float64; the op's rules."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pdrec_fast.ops.denoising.noisy_projection import noisy_projection
from tests.ops.denoising.test_noisy_input import histories
from tests.ops.denoising.test_noisy_projection import shards_and_whole

pytest.importorskip("triton", reason="Triton is not installed")
kernels = pytest.importorskip("pdrec_fast.kernels.triton.denoising.noisy_projection")

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
ROWS, ITEMS, HIDDEN = 37, 70, 37  # two or three tiles of 32 each
KEYS = {"seed": 2**63 + 5, "epoch": 2**31 + 1, "users": np.arange(ROWS) * 110_000_003}


@pytest.fixture(autouse=True)
def _tiles(tile_size, monkeypatch):
    """Small ones: two slabs of items, of two blocks and one."""
    if tile_size == "small":
        monkeypatch.setattr(kernels, "_PROGRAMS", 8)
        monkeypatch.setattr(kernels, "tile_for", lambda *_: kernels.Tile(32, 32, 32, 4, 2))


def inputs(device, dtype=torch.float32, hidden=HIDDEN):
    """(indptr, items, values), weight, (signal, sigma), gradient of the result."""
    *sparse, _, signal, sigma = histories(ROWS, ITEMS)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(ITEMS, hidden, generator=generator).to(device, dtype)
    grad_out = torch.randn(ROWS, hidden, generator=generator).to(device, dtype)
    return sparse, weight.requires_grad_(), (signal, sigma), grad_out


def tensors(device, sparse, scales):
    arrays = [*sparse, *scales, KEYS["users"]]
    return [torch.from_numpy(array).to(device) for array in arrays]


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


def with_gradient(sparse, weight, scales, grad_out, dropout, **keywords):
    out = noisy_projection(*sparse, weight, *scales, dropout, **(KEYS | keywords))
    return out.detach(), torch.autograd.grad(out, weight, grad_out)[0]


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 1.6e-2)], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_values_and_gradient(device, dtype, bound, dropout):
    sparse, weight, scales, grad_out = inputs(device, dtype)
    found = with_gradient(sparse, weight, scales, grad_out, dropout, impl="triton")
    wide = weight.detach().double().requires_grad_()
    expected = with_gradient(sparse, wide, scales, grad_out.double(), dropout, impl="reference")
    for result, truth in zip(found, expected, strict=True):
        assert result.dtype == dtype
        assert relative_error(result, truth) < bound


def test_without_noise_only_the_histories_count(device):
    """Dropout's mask shows bit by bit: an item dropped wrongly would be a whole weight."""
    sparse, weight, (signal, _), grad_out = inputs(device, hidden=3)
    arguments = sparse, weight, (signal, np.zeros_like(signal)), grad_out, 0.5
    found = with_gradient(*arguments, impl="triton")
    for result, truth in zip(found, with_gradient(*arguments, impl="reference"), strict=True):
        torch.testing.assert_close(result, truth, rtol=1e-5, atol=1e-6)


def test_the_product_of_the_identity_is_the_noised_input(device):
    """Each element of x_t on its own, mask included, through the value and the gradient."""
    sparse, _, scales, _ = inputs(device)
    settings = dict(zip(("signal", "sigma"), scales, strict=True))
    eye = torch.eye(ITEMS, device=device, requires_grad=True)
    x = noisy_projection(*sparse, eye, **settings, dropout=0.4, **KEYS, impl="triton")
    truth = noisy_projection(*sparse, eye, **settings, dropout=0.4, **KEYS, impl="reference")
    torch.testing.assert_close(x, truth, rtol=0, atol=1e-5)
    assert torch.equal(x == 0, truth == 0)
    (grad_eye,) = torch.autograd.grad(x, eye, torch.eye(ROWS, ITEMS, device=device))
    torch.testing.assert_close(grad_eye[:, :ROWS].T, truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_of_the_items_add_up_to_the_whole(device, dtype):
    for found, expected in zip(*shards_and_whole("triton", dtype, device), strict=True):
        assert expected.count_nonzero() > 37 * 30
        assert torch.equal(found, expected)


def test_the_result_depends_neither_on_strides_nor_on_where_the_arrays_lie(device):
    sparse, weight, scales, grad_out = inputs(device, hidden=3)
    *sparse_there, signal, sigma, users = tensors(device, sparse, scales)
    strided = torch.stack((signal, sigma), dim=1)
    transposed = weight.detach().T.contiguous().T.requires_grad_()
    keywords = {"impl": "triton", "dropout": 0.4}
    found = with_gradient(
        sparse_there,
        transposed,
        strided.unbind(1),
        grad_out.T.contiguous().T,
        users=users,
        **keywords,
    )
    expected = with_gradient(sparse, weight, scales, grad_out, **keywords)
    for result, truth in zip(found, expected, strict=True):
        assert torch.equal(result, truth)


def test_an_expanded_gradient_and_all_history_in_one_item(device):
    """Many non-zeros of one item: their chunks need a loop."""
    indptr = np.arange(ROWS + 1)
    rows = indptr, np.full(ROWS, 40, np.int32), np.linspace(0.1, 1, ROWS, dtype=np.float32)
    ones = np.ones(ROWS, np.float32)
    weight = torch.randn(ITEMS, 3, device=device, requires_grad=True)
    out = noisy_projection(*rows, weight, ones, 0 * ones, 0.0, **KEYS, impl="triton")
    (grad_weight,) = torch.autograd.grad(out.sum(), weight)
    assert grad_weight[40].tolist() == pytest.approx([rows[2].sum()] * 3)
    assert not grad_weight[:40].any()
    assert not grad_weight[41:].any()


@pytest.mark.parametrize("n_rows", [0, 1])
def test_few_rows_without_history(device, n_rows):
    sparse = np.zeros(n_rows + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    ones, users = np.ones(n_rows, np.float32), np.arange(n_rows)
    weight = torch.randn(5, 3, device=device, requires_grad=True)
    arguments = sparse, weight, (ones, ones), torch.ones(n_rows, 3, device=device), 0.2
    found = with_gradient(*arguments, users=users, impl="triton")
    expected = with_gradient(*arguments, users=users, impl="reference")
    for result, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(result, truth, rtol=1e-5, atol=1e-6)


def test_tiles_fit_the_hidden_layer():
    for hidden, dtype, rows, columns in (
        (3, torch.bfloat16, 128, 16),
        (200, torch.bfloat16, 128, 256),
        (1000, torch.bfloat16, 64, 512),
        (1000, torch.float32, 64, 128),
    ):
        tile = _tile_for(hidden, dtype)
        assert (tile.rows, tile.columns) == (rows, columns)
        assert tile == replace(tile, depth=tile.depth // 4 * 4)  # whole blocks of four items


_tile_for = kernels.tile_for


def one_tile(device):
    """indptr, items, values, signal, sigma, users; weight; gradient of the result."""
    *sparse, n_items, signal, sigma = histories(5, 9)
    arrays = [torch.from_numpy(array).to(device) for array in (*sparse, signal, sigma)]
    weight = torch.randn(n_items, 3, device=device, requires_grad=True)
    return (*arrays, torch.arange(5, device=device)), weight, torch.randn(5, 3, device=device)


def test_custom_op_contract(device):
    torch.use_deterministic_algorithms(False)
    (*sparse, signal, sigma, users), weight, grad_out = one_tile(device)
    arguments = *sparse, len(weight), signal, sigma, users, 0.3, -5, 2, 8
    ops = torch.ops.pdrec_fast
    torch.library.opcheck(ops.noisy_projection.default, (weight, *arguments))
    torch.library.opcheck(ops.noisy_projection_backward.default, (grad_out, *arguments))


def test_compiles_without_a_graph_break(device):
    torch.use_deterministic_algorithms(False)
    (*sparse, signal, sigma, users), weight, grad_out = one_tile(device)
    keywords = {"seed": 1, "epoch": 2, "users": users, "first_item": 8, "impl": "triton"}
    compiled = torch.compile(noisy_projection, fullgraph=True, backend="aot_eager")
    out = compiled(*sparse, weight, signal, sigma, 0.3, **keywords)
    found = out.detach(), torch.autograd.grad(out, weight, grad_out)[0]
    eager = with_gradient(sparse, weight, (signal, sigma), grad_out, 0.3, **keywords)
    for result, truth in zip(found, eager, strict=True):
        assert torch.equal(result, truth)


def test_autocast_takes_the_weight_in_bfloat16(device):
    (*sparse, signal, sigma, users), weight, grad_out = one_tile(device)
    arguments = *sparse, weight, signal, sigma, 0.3
    with torch.autocast(device.type, torch.bfloat16):
        out = noisy_projection(*arguments, seed=1, epoch=2, users=users, impl="triton")
    assert out.dtype == torch.bfloat16
    (grad_weight,) = torch.autograd.grad(out, weight, grad_out.bfloat16())
    assert grad_weight.dtype == torch.float32


def test_choice_of_implementation(device, caplog):
    sparse, weight, scales, grad_out = inputs(device, hidden=3)
    best = "triton" if device.type == "cuda" else "materialized"
    auto = with_gradient(sparse, weight, scales, grad_out, 0.3)
    named = with_gradient(sparse, weight, scales, grad_out, 0.3, impl=best)
    assert all(torch.equal(a, b) for a, b in zip(auto, named, strict=True))
    assert not caplog.records
