"""The density of a dense vector and its gradients against the dense reference."""

import math

import pytest
import torch

from pdrec_fast.ops.denoising import _blocks
from pdrec_fast.ops.denoising.normal_likelihood import normal_likelihood
from tests.ops.denoising.test_corpus_error import NAMES, SIZES, make_inputs


def make_layer(n_rows, n_items, width, dtype=torch.float64, strided=False):
    (hidden, item_out, bias), _ = make_inputs(n_rows, 2 * n_items, width, dtype, strided)
    z = torch.randn(
        n_rows, n_items, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    return [hidden, item_out, bias], z.to(dtype)


def run(floats, z, impl, upstream):
    """Losses and the gradients of ``(losses * upstream).sum()``."""
    leaves = [tensor.detach().requires_grad_() for tensor in floats]
    losses = normal_likelihood(*leaves, z, impl=impl)
    (losses * upstream.to(losses.dtype)).sum().backward()
    return losses.detach(), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("impl", ["blocks", "reference"])
def test_by_hand(impl):
    hidden = torch.tensor([[1.0], [0.0]], requires_grad=True)
    item_out = torch.tensor([[2.0], [math.log(4)]], requires_grad=True)
    bias, z = torch.zeros(2, requires_grad=True), torch.tensor([[4.0], [3.0]])
    losses = normal_likelihood(hidden, item_out, bias, z, impl=impl)
    # A normal around 2 of variance 4 at 4, a standard one at 3.
    wanted = torch.tensor([math.log(4) + 4 / 4, 9.0]) + math.log(2 * math.pi)
    torch.testing.assert_close(losses, wanted / 2)
    losses.sum().backward()
    # By the mean (mean - z) / variance, by its logarithm half of 1 - (z - mean)^2 / variance.
    torch.testing.assert_close(bias.grad, torch.tensor([-0.5 - 3.0, 0.0 - 4.0]))
    torch.testing.assert_close(item_out.grad, torch.tensor([[-0.5], [0.0]]))
    torch.testing.assert_close(hidden.grad, torch.tensor([[-1.0], [-6.0 - 4 * math.log(4)]]))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    ("dtype", "forward", "backward"), [(torch.float64, 1e-10, 1e-10), (torch.float32, 1e-5, 1e-4)]
)
def test_agrees_with_the_reference(sizes, strided, dtype, forward, backward, monkeypatch):
    monkeypatch.setattr(_blocks, "_ITEMS", 16)
    n_rows, n_items, width = sizes
    floats, z = make_layer(n_rows, n_items, width, dtype, strided)
    floats[1] = floats[1].detach() / width  # log variances of a reasonable size
    upstream = torch.rand(n_rows, generator=torch.Generator().manual_seed(1)) - 0.3
    truth, true_gradients = run(
        [t.detach().double() for t in floats], z.double(), "reference", upstream
    )
    losses, gradients = run(floats, z, "auto", upstream)
    torch.testing.assert_close(losses.double(), truth, rtol=forward, atol=forward)
    for name, gradient, true in zip(NAMES, gradients, true_gradients, strict=True):
        assert gradient.dtype == dtype
        atol = backward * max(float(true.abs().max()), 1e-6)
        torch.testing.assert_close(gradient.double(), true, rtol=backward, atol=atol, msg=name)


def test_torch_knows_the_operation():
    floats, z = make_layer(3, 7, 2)
    torch.library.opcheck(torch.ops.pdrec_fast.normal_likelihood.default, (*floats, z))
    z[1, 2] = math.nan
    assert normal_likelihood(*floats, z).isnan().tolist() == [False, True, False]


def test_refuses_what_does_not_fit():
    floats, z = make_layer(3, 7, 2)
    with pytest.raises(ValueError, match="must share H"):
        normal_likelihood(floats[0], floats[1][:, :1], floats[2], z)
    with pytest.raises(ValueError, match=r"two rows for each .*got .*\(3, 6\)"):
        normal_likelihood(*floats, z[:, :6])
    with pytest.raises(ValueError, match="unknown impl='dense'"):
        normal_likelihood(*floats, z, impl="dense")
