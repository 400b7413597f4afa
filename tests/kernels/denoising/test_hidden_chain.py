"""``hidden_chain`` in Triton against products and loops; tanh; the op's rules."""

import numpy as np
import pytest
import torch

from pdrec_fast.errors import BackendError
from pdrec_fast.ops.denoising.hidden_chain import hidden_chain
from tests.ops.denoising.test_hidden_chain import HIDDEN, ITEMS, inputs, on_device

triton = pytest.importorskip("triton", reason="Triton is not installed")
tl = pytest.importorskip("triton.language")
kernels = pytest.importorskip("pdrec_fast.kernels.triton.denoising.hidden_chain")

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
_tile_for = kernels.tile_for


@pytest.fixture(autouse=True)
def _tiles(tile_size, monkeypatch):
    if tile_size == "small":
        monkeypatch.setattr(kernels, "tile_for", lambda *_: kernels.Tile(16, 16, 16, 4, 2))


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1.6e-2)], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_agrees_with_the_reference(device, dtype, bound, steps):
    sparse, layer = inputs(device, dtype, steps=steps)
    truth = hidden_chain(*sparse, *(tensor.double() for tensor in layer), impl="reference")
    found = hidden_chain(*sparse, *layer, impl="triton")
    assert found.dtype == dtype
    error = relative_error(found, truth)
    assert error < bound
    eager = relative_error(hidden_chain(*sparse, *layer, impl="torch"), truth)
    # The interpreter cuts off bfloat16's digits where a GPU rounds.
    assert error < (1.5 if dtype == torch.float32 else 2.5) * eager + 1e-7


@pytest.mark.parametrize("hidden", [1, 16, 33])
def test_widths(device, hidden):
    sparse, layer = inputs(device, torch.float32, hidden=hidden)
    truth = hidden_chain(*sparse, *(tensor.double() for tensor in layer), impl="reference")
    assert relative_error(hidden_chain(*sparse, *layer, impl="triton"), truth) < 1e-6


def test_a_row_depends_neither_on_the_batch_nor_on_strides(device):
    sparse, layer = inputs(device, torch.float32)
    whole = hidden_chain(*sparse, *layer, impl="triton")
    indptr, items, values = on_device(sparse, device)
    strided = [tensor.mT.contiguous().mT if tensor.ndim == 2 else tensor for tensor in layer]
    values = torch.stack((values, values), 1)[:, 0]
    assert torch.equal(hidden_chain(indptr, items, values, *strided, impl="triton"), whole)
    begin, end = sparse[0][20], sparse[0][25]
    part = sparse[0][20:26] - begin, sparse[1][begin:end], sparse[2][begin:end]
    torch.testing.assert_close(
        hidden_chain(*part, *layer, impl="triton"), whole[20:25], rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("impl", ["triton", "torch", "reference"])
def test_no_rows_and_no_items(device, impl):
    _, layer = inputs(device, torch.float32)
    nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
    assert hidden_chain(np.zeros(1, np.int64), *nothing, *layer, impl=impl).shape == (0, HIDDEN)
    found = hidden_chain(np.zeros(3, np.int64), *nothing, *layer, impl=impl)
    expected = hidden_chain(np.zeros(3, np.int64), *nothing, *layer, impl="reference")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@triton.jit
def _tanh_kernel(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, kernels_tanh(tl.load(x + at)))


kernels_tanh = kernels._tanh


def test_tanh_to_the_last_places(device):
    small = torch.logspace(-40, 2, 2048)
    special = torch.tensor([0.0, 0.625, 0.62499994, float("inf"), 1e-45, 88.0, 20.0, 9.0])
    x = torch.cat((small, -small[:-16], special, -special)).to(device)
    out = torch.empty_like(x)
    _tanh_kernel[(1,)](x, out, N=len(x))
    truth = torch.tanh(x.double())
    last_place = torch.finfo(torch.float32).eps * truth.abs().clamp_min(1e-37)
    units = 4 if device.type == "cuda" else 3  # a GPU's exp2 and division are off by 2 themselves
    assert ((out.double() - truth).abs() <= units * last_place).all()
    assert torch.equal(out.sign(), truth.sign().float())
    nan = torch.full((16,), torch.nan, device=device)
    _tanh_kernel[(1,)](nan, out, N=16)
    assert out[:16].isnan().all()


def test_tiles_fit_the_hidden_layer():
    for hidden, dtype, rows, columns in (
        (3, torch.bfloat16, 64, 16),
        (1000, torch.bfloat16, 64, 256),
        (1000, torch.float32, 64, 128),
    ):
        tile = _tile_for(hidden, dtype)
        assert (tile.rows, tile.columns) == (rows, columns)


def test_custom_op_contract(device):
    torch.use_deterministic_algorithms(False)
    sparse, layer = inputs(device, torch.float32, rows=5, hidden=3, steps=2)
    op = torch.ops.pdrec_fast.hidden_chain.default
    torch.library.opcheck(op, (*on_device(sparse, device), ITEMS, *layer))


def test_compiles_without_a_graph_break(device):
    torch.use_deterministic_algorithms(False)
    sparse, layer = inputs(device, torch.float32, rows=5, hidden=3, steps=2)
    arguments = *on_device(sparse, device), *layer
    compiled = torch.compile(hidden_chain, fullgraph=True, backend="aot_eager")
    expected = hidden_chain(*arguments, impl="triton")
    assert torch.equal(compiled(*arguments, impl="triton"), expected)


def test_choice_of_implementation(device, caplog):
    sparse, layer = inputs(device, torch.float32)
    best = "triton" if device.type == "cuda" else "torch"
    assert torch.equal(hidden_chain(*sparse, *layer), hidden_chain(*sparse, *layer, impl=best))
    assert not caplog.records
    with pytest.raises(BackendError, match=r"takes float32 or bfloat16 weights, got torch.float64"):
        hidden_chain(*sparse, *inputs(device)[1], impl="triton")
