"""``hidden_chain``: Triton, products and loops against each other; tanh; the op's rules."""

import numpy as np
import pytest
import torch
from tests.kernels.test_triton_noisy_input import histories

from pdrec_fast.errors import BackendError
from pdrec_fast.ops.denoising.hidden_chain import _offered, hidden_chain

triton = pytest.importorskip("triton", reason="Triton is not installed")
tl = pytest.importorskip("triton.language")
kernels = pytest.importorskip("pdrec_fast.kernels.triton.denoising.hidden_chain")

ROWS, ITEMS, HIDDEN, STEPS = 37, 70, 41, 4  # two or three tiles in each direction
_tile_for = kernels.tile_for


@pytest.fixture(autouse=True, params=["small", "own"] if torch.cuda.is_available() else ["small"])
def _tiles(request, monkeypatch):
    if request.param == "small":
        monkeypatch.setattr(kernels, "tile_for", lambda *_: kernels.Tile(16, 16, 16, 4, 2))


@pytest.fixture(autouse=True)
def _poisoned_outputs():
    """Memory that nothing was written to holds NaN, the scratch too."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def inputs(device, dtype=torch.float64, *, rows=ROWS, hidden=HIDDEN, steps=STEPS):
    """(indptr, items, values), (item_in, gram, bias, time, coefficients)"""
    sparse = histories(rows, ITEMS)[:3]
    generator = torch.Generator().manual_seed(hidden)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = normal(ITEMS, hidden), normal(hidden, hidden) / hidden**0.5
    vectors = normal(hidden), normal(steps, hidden)
    coefficients = torch.rand(2, steps, generator=generator, dtype=torch.float64).unbind()
    layer = [tensor.to(dtype) for tensor in (*weights, *vectors)]
    return sparse, [tensor.to(device) for tensor in (*layer, *coefficients)]


def on_device(sparse, device):
    return [torch.from_numpy(array).to(device) for array in sparse]


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


def test_reference_is_the_equation_over_dense_states(device):
    generator = torch.Generator().manual_seed(0)
    n_items, hidden, steps = 7, 3, 3
    item_in, item_out = torch.randn(2, n_items, hidden, generator=generator, dtype=torch.float64)
    item_bias = torch.randn(n_items, generator=generator, dtype=torch.float64)
    time = torch.randn(steps, hidden, generator=generator, dtype=torch.float64)
    c1, c2 = torch.rand(2, steps, generator=generator, dtype=torch.float64)
    x = torch.tensor([[0, 1.0, 0, 0, 0.5, 0, 0], [0] * 7], dtype=torch.float64)
    sparse = np.array([0, 2, 2]), np.array([4, 1], np.int32), np.array([0.5, 1], np.float32)
    arguments = item_in, item_out.T @ item_in, item_bias @ item_in, time, c1, c2
    for t in (2, 1, 0):
        h = torch.tanh(x @ item_in + time[t])
        x = c1[t] * (h @ item_out.T + item_bias) + c2[t] * x
    for impl in ("reference", "torch"):
        found = hidden_chain(*sparse, *(tensor.to(device) for tensor in arguments), impl=impl)
        torch.testing.assert_close(found.cpu(), h, rtol=1e-12, atol=1e-12)


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
    torch.library.opcheck(op, (*on_device(sparse, device), *layer))


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


@pytest.mark.parametrize(
    ("n_rows", "hidden", "first"),
    [(4095, 257, "torch"), (4096, 257, "triton"), (1, 256, "triton"), (0, 1000, "torch")],
)
def test_few_rows_of_a_wide_layer_go_to_the_library(n_rows, hidden, first):
    assert next(iter(_offered(torch.empty(3, hidden, device="meta"), n_rows))) == first


@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (0, lambda a: a[1:], r"must rise from 0 to"),
        (1, lambda a: a + ITEMS, r"items must lie in 0 \.\. 69"),
        (2, lambda a: a[1:], r"values must have shape"),
        (3, lambda a: a[0], r"item_in must be a floating tensor of shape \[N, H\]"),
        (4, lambda a: a.double(), r"gram must be torch.float32"),
        (4, lambda a: a[1:], r"gram must have shape \(41, 41\)"),
        (5, lambda a: a[1:], r"bias must have shape"),
        (6, lambda a: a[:0], r"time must have a row for every step"),
        (7, lambda a: a[1:], r"x0_coefficient must have shape \(4,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(device, position, change, message):
    sparse, layer = inputs(device, torch.float32)
    arguments = [*sparse, *layer]
    arguments[position] = change(arguments[position])
    with pytest.raises(ValueError, match=message):
        hidden_chain(*arguments)
    if position == 2:
        arguments[:3] = on_device(arguments[:3], device)
        with pytest.raises(ValueError, match=r"values must be torch.float32 of shape \[\d+\]"):
            hidden_chain(*arguments)
