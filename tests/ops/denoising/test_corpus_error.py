"""The corpus error and its gradients against the dense reference."""

import pytest
import torch

from pdrec_fast.errors import BackendError
from pdrec_fast.ops.denoising.corpus_error import corpus_error

SIZES = [(1, 1, 1), (3, 7, 2), (5, 17, 9), (33, 129, 65)]
NAMES = ("hidden", "item_out", "item_bias")
fast = pytest.mark.parametrize("impl", ["dense", "gram"])


def make_inputs(n_rows, n_items, n_hidden, dtype=torch.float64, strided=False):
    generator = torch.Generator().manual_seed(n_items)

    def normal(*shape):
        values = torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)
        if strided:
            spread = values.new_full((*shape[:-1], 2 * shape[-1]), float("nan"))
            spread[..., ::2] = values
            values = spread[..., ::2]
        return values.detach().requires_grad_()

    floats = [normal(n_rows, n_hidden), normal(n_items, n_hidden), normal(n_items)]
    # Row 1 stays empty.
    filled = torch.rand(n_rows, n_items, generator=generator) < 0.3
    filled[1:2] = False
    rows, items = filled.nonzero(as_tuple=True)
    return floats, (rows, items, torch.rand(len(rows), generator=generator) + 0.5)


def run(floats, target, impl, upstream):
    """Errors and the gradients of ``(errors * upstream).sum()``."""
    leaves = [tensor.detach().requires_grad_() for tensor in floats]
    errors = corpus_error(*leaves, *target, impl=impl)
    (errors * upstream.to(errors.dtype)).sum().backward()
    return errors.detach(), [leaf.grad for leaf in leaves]


@fast
def test_by_hand(impl):
    hidden = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    item_out = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, -1.0]], requires_grad=True)
    bias = torch.tensor([0.0, 1.0, 0.5], requires_grad=True)
    target = torch.tensor([0]), torch.tensor([1]), torch.tensor([2.0])
    errors = corpus_error(hidden, item_out, bias, *target, impl=impl)
    # Predictions (1, 2.5, -1.5) and (0, 1, 0.5) for (0, 2, 0) and nothing.
    torch.testing.assert_close(errors, torch.tensor([3.5 / 3, 1.25 / 3]))
    errors[0].backward()
    difference = torch.tensor([1.0, 0.5, -1.5])
    torch.testing.assert_close(bias.grad, 2 / 3 * difference)
    torch.testing.assert_close(item_out.grad, 2 / 3 * difference[:, None] * hidden[0])
    torch.testing.assert_close(hidden.grad[0], 2 / 3 * difference @ item_out)
    assert hidden.grad[1].tolist() == [0, 0]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    ("dtype", "forward", "backward"),
    [
        (torch.float64, 1e-10, 1e-10),
        (torch.float32, 1e-5, 1e-4),
    ],
)
@fast
def test_agrees_with_the_reference(impl, sizes, strided, dtype, forward, backward):
    floats, target = make_inputs(*sizes, dtype=dtype, strided=strided)
    assert not strided or sizes[0] == 1 or not floats[0].is_contiguous()
    upstream = torch.rand(sizes[0], generator=torch.Generator().manual_seed(1)) - 0.3
    wide = [tensor.detach().double() for tensor in floats]
    truth, true_gradients = run(wide, target, "reference", upstream)
    errors, gradients = run(floats, target, impl, upstream)
    assert errors.dtype == dtype
    torch.testing.assert_close(errors.double(), truth, rtol=forward, atol=0)
    for name, gradient, true in zip(NAMES, gradients, true_gradients, strict=True):
        assert gradient.dtype == dtype
        atol = backward * float(true.abs().max())
        torch.testing.assert_close(gradient.double(), true, rtol=backward, atol=atol, msg=name)


@pytest.mark.parametrize("sizes", SIZES)
def test_bfloat16_products_keep_wide_parameters(sizes):
    floats, target = make_inputs(*sizes, dtype=torch.float32)
    mixed = [floats[0].detach().bfloat16(), *floats[1:]]
    upstream = torch.rand(sizes[0], generator=torch.Generator().manual_seed(1))
    truth, true_gradients = run(
        [tensor.detach().double() for tensor in mixed], target, "reference", upstream
    )
    eager, eager_gradients = run(mixed, target, "reference", upstream)
    errors, gradients = run(mixed, target, "dense", upstream)
    assert errors.dtype == torch.float32
    # Where the row's error is small against its target, bfloat16 differences cancel.
    atol = 1.6e-2 * float(truth.max())
    torch.testing.assert_close(errors.double(), truth, rtol=1.6e-2, atol=atol)
    for name, gradient, eager_gradient, true in zip(
        NAMES, gradients, eager_gradients, true_gradients, strict=True
    ):
        assert gradient.dtype == (torch.bfloat16 if name == "hidden" else torch.float32)
        scale = true.abs().max()
        error = (gradient.double() - true).abs().max() / scale
        assert error <= 1.6e-2, name
        assert error <= 1.5 * (eager_gradient.double() - true).abs().max() / scale + 4e-3, name
    assert (errors.double() - truth).abs().max() <= (
        1.5 * (eager.double() - truth).abs().max() + 4e-3 * truth.max()
    )


@fast
def test_analytic_gradients_match_finite_differences(impl):
    floats, target = make_inputs(3, 7, 2)
    upstream = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    _, gradients = run(floats, target, impl, upstream)
    shift = 1e-5
    for position, gradient in enumerate(gradients):
        for index in range(gradient.numel()):
            sums = []
            for sign in (1, -1):
                moved = [tensor.detach().clone() for tensor in floats]
                moved[position].view(-1)[index] += sign * shift
                sums.append((corpus_error(*moved, *target, impl=impl) * upstream).sum())
            slope = float(sums[0] - sums[1]) / (2 * shift)
            assert float(gradient.view(-1)[index]) == pytest.approx(slope, rel=1e-7, abs=1e-9)


@fast
def test_expanded_upstream_gradient(impl):
    floats, target = make_inputs(5, 17, 9)
    by_mean = torch.autograd.grad(corpus_error(*floats, *target, impl=impl).mean(), floats)
    reference = corpus_error(*floats, *target, impl="reference").mean()
    for actual, expected in zip(by_mean, torch.autograd.grad(reference, floats), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@fast
def test_no_targets_at_all(impl):
    floats, _ = make_inputs(3, 7, 2)
    nothing = torch.zeros(0, dtype=torch.int64)
    target = nothing, nothing, torch.zeros(0)
    errors = corpus_error(*floats, *target, impl=impl)
    expected = (floats[0] @ floats[1].T + floats[2]).square().mean(dim=1)
    torch.testing.assert_close(errors, expected, rtol=1e-12, atol=0)


@fast
def test_no_rows_at_all(impl):
    (_, item_out, bias), _ = make_inputs(3, 7, 2)
    nothing = torch.zeros(0, dtype=torch.int64)
    hidden = torch.zeros(0, 2, dtype=torch.float64)
    errors = corpus_error(hidden, item_out, bias, nothing, nothing, torch.zeros(0), impl=impl)
    assert errors.shape == (0,)


@fast
def test_inputs_are_left_alone(impl):
    floats, target = make_inputs(5, 17, 9)
    before = [tensor.detach().clone() for tensor in (*floats, *target)]
    corpus_error(*floats, *target, impl=impl).sum().backward()
    for old, new in zip(before, (*floats, *target), strict=True):
        assert torch.equal(old, new)


@fast
def test_backward_can_run_again(impl):
    floats, target = make_inputs(3, 7, 2)
    loss = corpus_error(*floats, *target, impl=impl).sum()
    first = torch.autograd.grad(loss, floats, retain_graph=True)
    for again, before in zip(torch.autograd.grad(loss, floats), first, strict=True):
        assert torch.equal(again, before)


@fast
def test_second_derivatives(impl):
    floats, target = make_inputs(3, 7, 2)
    torch.autograd.gradgradcheck(
        lambda *leaves: corpus_error(*leaves, *target, impl=impl), floats, atol=1e-7
    )


@fast
def test_custom_op_contract(impl):
    floats, target = make_inputs(5, 17, 9)
    op = getattr(torch.ops.pdrec_fast, f"corpus_error_{impl}").default
    torch.library.opcheck(op, (*floats, *target))


@fast
def test_compiles_without_a_graph_break(impl):
    floats, target = make_inputs(5, 17, 9)
    compiled = torch.compile(corpus_error, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(*floats, *target, impl=impl).sum(), floats)
    expected = torch.autograd.grad(corpus_error(*floats, *target, impl=impl).sum(), floats)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_runs_the_products_in_bfloat16():
    floats, target = make_inputs(5, 17, 9, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        errors = corpus_error(*floats, *target, impl="dense")
    assert errors.dtype == torch.float32
    exact = corpus_error(*floats, *target, impl="dense")
    assert not torch.equal(errors, exact)
    torch.testing.assert_close(errors, exact, rtol=3e-2, atol=0)
    for gradient in torch.autograd.grad(errors.sum(), floats):
        assert gradient.dtype == torch.float32


def test_auto_takes_the_smaller_products():
    for sizes, impl in (((3, 17, 9), "dense"), ((7, 17, 9), "gram")):
        floats, target = make_inputs(*sizes)
        auto = corpus_error(*floats, *target)
        assert torch.equal(auto, corpus_error(*floats, *target, impl=impl))


def test_narrow_products_are_never_expanded():
    floats, target = make_inputs(7, 17, 9, dtype=torch.bfloat16)
    auto = corpus_error(*floats, *target)
    assert torch.equal(auto, corpus_error(*floats, *target, impl="dense"))
    with pytest.raises(BackendError, match=r"bfloat16 is too narrow"):
        corpus_error(*floats, *target, impl="gram")


def test_names_are_checked():
    floats, target = make_inputs(3, 7, 2)
    with pytest.raises((ValueError, BackendError), match=r"corpus_error.*triton.*dense"):
        corpus_error(*floats, *target, impl="triton")


@pytest.mark.parametrize("hidden_shape", [(3, 4), (3,)])
def test_widths_that_differ_are_named(hidden_shape):
    (_, item_out, bias), target = make_inputs(3, 7, 2)
    with pytest.raises(ValueError, match=r"must share H.*\(7, 2\)"):
        corpus_error(torch.zeros(hidden_shape), item_out, bias, *target)
