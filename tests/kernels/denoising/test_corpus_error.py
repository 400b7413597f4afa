"""``corpus_error`` in Triton: errors and gradients against float64; the op's rules."""

import pytest
import torch

from pdrec_fast.errors import BackendError
from pdrec_fast.ops.denoising.corpus_error import corpus_error
from tests.ops.denoising.test_corpus_error import NAMES, make_inputs, run

pytest.importorskip("triton", reason="Triton is not installed")
kernels = pytest.importorskip("pdrec_fast.kernels.triton.denoising.corpus_error")

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
SIZES = [(1, 1, 1), (5, 17, 9), (33, 65, 35)]  # one to three tiles in each direction


@pytest.fixture(autouse=True)
def _tiles(tile_size, monkeypatch):
    if tile_size == "small":
        monkeypatch.setattr(kernels, "tile_for", lambda *_: kernels.Tile(16, 32, 16, 4, 2))


def inputs(device, sizes, dtype=torch.float32, strided=False):
    floats, target = make_inputs(*sizes, dtype=dtype, strided=strided)
    floats = [tensor.detach().to(device).requires_grad_() for tensor in floats]
    return floats, tuple(tensor.to(device) for tensor in target)


def upstream(n_rows, device):
    return (torch.rand(n_rows, generator=torch.Generator().manual_seed(1)) - 0.3).to(device)


def relative_error(found, truth):
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("strided", [False, True])
def test_error_is_at_most_that_of_plain_torch(sizes, strided, device):
    floats, target = inputs(device, sizes, strided=strided)
    grad_errors = upstream(sizes[0], device)
    wide = [tensor.detach().double() for tensor in floats]
    truth, true_gradients = run(wide, target, "reference", grad_errors)
    eager, eager_gradients = run(floats, target, "reference", grad_errors)
    errors, gradients = run(floats, target, "triton", grad_errors)
    assert errors.dtype == torch.float32
    assert relative_error(errors, truth) <= 1.5 * relative_error(eager, truth) + 2e-7
    for name, gradient, by_eager, true in zip(
        NAMES, gradients, eager_gradients, true_gradients, strict=True
    ):
        bound = 1.5 * relative_error(by_eager, true) + 5e-7
        assert relative_error(gradient, true) <= bound, name


@pytest.mark.parametrize("sizes", SIZES)
def test_bfloat16_products_keep_wide_parameters(sizes, device):
    floats, target = inputs(device, sizes)
    mixed = [floats[0].detach().bfloat16(), *floats[1:]]
    grad_errors = upstream(sizes[0], device)
    wide = [tensor.detach().double() for tensor in mixed]
    truth, true_gradients = run(wide, target, "reference", grad_errors)
    errors, gradients = run(mixed, target, "triton", grad_errors)
    assert errors.dtype == torch.float32
    assert relative_error(errors, truth) < 1.6e-2
    for name, gradient, true in zip(NAMES, gradients, true_gradients, strict=True):
        assert gradient.dtype == (torch.bfloat16 if name == "hidden" else torch.float32)
        assert relative_error(gradient, true) < 1.6e-2, name


def test_every_pair_is_subtracted_once_in_any_order(device):
    """A whole tile of pairs, more than are subtracted at a time, with predictions of 0."""
    n_rows, n_items = 19, 37
    hidden = torch.zeros(n_rows, 3, device=device)
    layer = torch.ones(n_items, 3, device=device), torch.zeros(n_items, device=device)
    x = torch.rand(n_rows, n_items, generator=torch.Generator().manual_seed(0)).to(device)
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0)).to(device)
    rows, items = order // n_items, order % n_items
    op = torch.ops.pdrec_fast.corpus_error_dense
    errors, difference = op(hidden, *layer, rows, items, x[rows, items], "triton")
    assert torch.equal(difference, -x)
    torch.testing.assert_close(errors, x.square().mean(dim=1), rtol=1e-6, atol=0)


def test_a_run_repeats_bit_by_bit(device):
    floats, target = inputs(device, SIZES[-1])
    grad_errors = upstream(SIZES[-1][0], device)
    first, again = (run(floats, target, "triton", grad_errors) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(one, two) for one, two in zip(first[1], again[1], strict=True))


def test_no_targets_and_no_rows(device):
    (hidden, item_out, bias), _ = inputs(device, (3, 7, 2))
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    target = nothing, nothing, torch.zeros(0, device=device)
    errors = corpus_error(hidden, item_out, bias, *target, impl="triton")
    expected = (hidden @ item_out.T + bias).square().mean(dim=1)
    torch.testing.assert_close(errors, expected, rtol=1e-5, atol=0)
    assert corpus_error(hidden[:0], item_out, bias, *target, impl="triton").shape == (0,)


def test_custom_op_contract(device):
    torch.use_deterministic_algorithms(False)
    floats, target = inputs(device, (5, 17, 9))
    op = torch.ops.pdrec_fast.corpus_error_dense.default
    torch.library.opcheck(op, (*floats, *target, "triton"))


def test_compiles_without_a_graph_break(device):
    torch.use_deterministic_algorithms(False)
    floats, target = inputs(device, (5, 17, 9))
    compiled = torch.compile(corpus_error, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(*floats, *target, impl="triton").sum(), floats)
    expected = torch.autograd.grad(corpus_error(*floats, *target, impl="triton").sum(), floats)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_runs_the_products_in_bfloat16(device):
    floats, target = inputs(device, (5, 17, 9))
    with torch.autocast(device.type, torch.bfloat16):
        errors = corpus_error(*floats, *target, impl="triton")
    assert errors.dtype == torch.float32
    exact = corpus_error(*floats, *target, impl="triton")
    assert not torch.equal(errors, exact)
    torch.testing.assert_close(errors, exact, rtol=3e-2, atol=0)
    for gradient in torch.autograd.grad(errors.sum(), floats):
        assert gradient.dtype == torch.float32


def test_choice_of_implementation(device, caplog):
    best = "triton" if device.type == "cuda" else "dense"
    for sizes, impl in (((3, 17, 9), best), ((7, 17, 9), "gram")):
        floats, target = inputs(device, sizes)
        auto = corpus_error(*floats, *target)
        assert torch.equal(auto, corpus_error(*floats, *target, impl=impl))
    assert not caplog.records
    floats, target = inputs(device, (3, 17, 9), torch.float64)
    with pytest.raises(BackendError, match=r"takes float32 or bfloat16, got torch.float64"):
        corpus_error(*floats, *target, impl="triton")
