"""The error of a layer with tanh and its gradients against the dense reference."""

import math

import pytest
import torch

from pdrec_fast.ops.denoising import _blocks
from pdrec_fast.ops.denoising.tanh_error import tanh_error
from tests.ops.denoising.test_corpus_error import NAMES, SIZES, make_inputs


def run(floats, target, impl, upstream):
    """Errors and the gradients of ``(errors * upstream).sum()``."""
    leaves = [tensor.detach().requires_grad_() for tensor in floats]
    errors = tanh_error(*leaves, *target, impl=impl)
    (errors * upstream.to(errors.dtype)).sum().backward()
    return errors.detach(), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("impl", ["blocks", "reference"])
def test_by_hand(impl):
    half = math.atanh(0.5)
    hidden = torch.tensor([[half], [0.0]], requires_grad=True)
    item_out = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    bias = torch.zeros(2, requires_grad=True)
    target = torch.tensor([0]), torch.tensor([1]), torch.tensor([1.0])
    errors = tanh_error(hidden, item_out, bias, *target, impl=impl)
    # Outputs (1/2, -1/2) and (0, 0) for (0, 1) and nothing.
    torch.testing.assert_close(errors, torch.tensor([0.25 + 2.25, 0.0]))
    errors.sum().backward()
    by_output = 2 * torch.tensor([0.5, -1.5]) * 0.75
    torch.testing.assert_close(bias.grad, by_output)
    torch.testing.assert_close(item_out.grad, by_output[:, None] * half)
    torch.testing.assert_close(hidden.grad, torch.tensor([[3.0], [0.0]]))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    ("dtype", "forward", "backward"), [(torch.float64, 1e-7, 1e-7), (torch.float32, 1e-5, 1e-4)]
)
def test_agrees_with_the_reference(sizes, strided, dtype, forward, backward, monkeypatch):
    monkeypatch.setattr(_blocks, "_ITEMS", 16)
    floats, target = make_inputs(*sizes, dtype=dtype, strided=strided)
    upstream = torch.rand(sizes[0], generator=torch.Generator().manual_seed(1)) - 0.3
    truth, true_gradients = run(
        [t.detach().double() for t in floats], target, "reference", upstream
    )
    errors, gradients = run(floats, target, "auto", upstream)
    torch.testing.assert_close(errors.double(), truth, rtol=forward, atol=forward)
    for name, gradient, true in zip(NAMES, gradients, true_gradients, strict=True):
        assert gradient.dtype == dtype
        atol = backward * max(float(true.abs().max()), 1e-6)
        torch.testing.assert_close(gradient.double(), true, rtol=backward, atol=atol, msg=name)


def test_torch_knows_the_operation():
    floats, target = make_inputs(5, 17, 9)
    torch.library.opcheck(torch.ops.pdrec_fast.tanh_error.default, (*floats, *target))


def test_refuses_what_does_not_fit():
    floats, (rows, items, values) = make_inputs(3, 7, 2)
    with pytest.raises(ValueError, match="must share H"):
        tanh_error(floats[0], floats[1][:, :1], floats[2], rows, items, values)
    with pytest.raises(ValueError, match=r"item_bias must have shape \[7\], got \(6,\)"):
        tanh_error(*floats[:2], floats[2][:6], rows, items, values)
    with pytest.raises(ValueError, match=r"items must lie in 0\.\.6, got 7"):
        tanh_error(*floats, rows, torch.full_like(items, 7), values)
    with pytest.raises(ValueError, match="unknown impl='dense'"):
        tanh_error(*floats, rows, items, values, impl="dense")
