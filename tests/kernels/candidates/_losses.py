"""What every loss of candidates' logits keeps in Triton; the test of one inherits it."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from pdrec_fast.errors import BackendError

DOT = {"similarity": "dot", "temperature": 1.0}
COSINE = {"similarity": "cosine", "temperature": 5.0}


@contextmanager
def deterministic(wanted):
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    yield
    torch.use_deterministic_algorithms(before)


def random_candidates(n_tokens, n_candidates, width, n_items, device, dtype, weights_shape):
    """([states, table], items, weights); some items are absent, none of the weights is 0."""
    generator = torch.Generator().manual_seed(width)
    states = torch.randn(n_tokens, width, generator=generator).to(device, dtype)
    table = torch.randn(n_items, width, generator=generator).to(device, dtype)
    items = torch.randint(-1, n_items, (n_tokens, n_candidates), generator=generator)
    weights = torch.rand(weights_shape, generator=generator)
    return [states, table], items.to(device), weights.to(device)


def run(loss, floats, rest, settings, *, impl="triton", way="atomic"):
    """The loss and the gradients of -0.7 times it by ``states`` and ``table``, both dense."""
    leaves = [tensor.detach().requires_grad_() for tensor in floats]
    value = loss(*leaves, *rest, impl=impl, sparse_grad=way == "sparse", **settings)
    with deterministic(way == "deterministic"):
        grad_states, grad_table = torch.autograd.grad(value * -0.7, leaves)
    assert grad_table.is_sparse == (way == "sparse")
    return value.detach(), (grad_states, grad_table.to_dense())


def relative_error(found, truth):
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-30))


class LossContract:
    """Attributes: ``loss``; ``make_inputs(T, C, d, N, *, device, dtype)``, which gives ([states,
    table], (items, weights, ...)). Fixtures: ``sizes``, arguments of ``make_inputs``; ``way``, how
    the table's gradient is summed: "atomic", "deterministic" or "sparse".
    """

    loss: Callable[..., torch.Tensor]
    make_inputs: Callable[..., Any]

    def run(self, *args, **keywords):
        return run(self.loss, *args, **keywords)

    @pytest.mark.usefixtures("poisoned_memory")
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_error_is_at_most_that_of_plain_torch(self, sizes, settings, way, device):
        floats, rest = self.make_inputs(*sizes, device=device)
        wide = [tensor.double() for tensor in floats]
        truth, true_gradients = self.run(wide, rest, settings, impl="reference")
        eager, eager_gradients = self.run(floats, rest, settings, impl="reference")
        loss, gradients = self.run(floats, rest, settings, way=way)
        assert loss.dtype == torch.float32
        slack = 6e-7 if device.type == "cuda" else 2e-7  # a GPU's exp is off by units itself
        assert relative_error(loss, truth) <= 1.5 * relative_error(eager, truth) + slack
        for found, by_eager, true in zip(gradients, eager_gradients, true_gradients, strict=True):
            assert found.dtype == torch.float32
            bound = 1.5 * relative_error(by_eager, true) + slack + 3e-7
            assert relative_error(found, true) <= bound

    @pytest.mark.usefixtures("poisoned_memory")
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_bfloat16_rounds_only_the_results(self, settings, way, device):
        floats, rest = self.make_inputs(9, 4, 20, 5, device=device, dtype=torch.bfloat16)
        wide = [tensor.double() for tensor in floats]
        truth, true_gradients = self.run(wide, rest, settings, impl="reference")
        loss, gradients = self.run(floats, rest, settings, way=way)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=0)
        for found, true in zip(gradients, true_gradients, strict=True):
            assert found.dtype == torch.bfloat16
            # A unit in the last of 8 places (the interpreter cuts where a GPU rounds), and
            # float32's own error where terms cancel.
            torch.testing.assert_close(found.double(), true, rtol=2**-7, atol=1e-6)

    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_strided_inputs_and_int32_items(self, settings, way, device):
        floats, (items, weights, *own) = self.make_inputs(7, 5, 9, 11, device=device)
        loss, gradients = self.run(floats, (items, weights, *own), settings, way=way)
        strided = [tensor.T.contiguous().T for tensor in (*floats, items.int())]
        strided.append(torch.stack([weights, weights], dim=-1)[..., 0])
        assert not any(tensor.is_contiguous() for tensor in strided)
        other, others = self.run(strided[:2], (*strided[2:], *own), settings, way=way)
        assert torch.equal(other, loss)
        for one, two in zip(others, gradients, strict=True):
            torch.testing.assert_close(one, two)

    def test_norms_below_eps_count_as_constant(self, way, device):
        floats = [
            torch.tensor([[0.0, 0.0], [3e-13, 4e-13]], device=device),
            torch.tensor([[0.0, 0.0], [1.0, 1.0]], device=device),
        ]
        _, (_, weights, *own) = self.make_inputs(2, 2, 3, 2, device=device)
        for items in ([[0, 1], [0, 1]], [[0, 1], [1, 0]]):
            rest = torch.tensor(items, device=device), torch.ones_like(weights), *own
            _, expected = self.run([x.double() for x in floats], rest, COSINE, impl="reference")
            _, found = self.run(floats, rest, COSINE, way=way)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)

    def test_a_learned_temperature(self, device):
        floats, rest = self.make_inputs(9, 4, 20, 5, device=device)
        found = []
        for impl, given in (("triton", floats), ("reference", [x.double() for x in floats])):
            learned = torch.tensor(5.0, device=device, requires_grad=True)
            leaves = [*(x.detach().requires_grad_() for x in given), learned]
            settings = {"similarity": "cosine", "temperature": learned}
            value = self.loss(*leaves[:2], *rest, impl=impl, **settings)
            found.append((value.detach(), *torch.autograd.grad(value * -0.7, leaves)))
        for one, true in zip(*found, strict=True):
            assert relative_error(one, true) <= 2e-6

    def test_custom_op_contract(self, device):
        floats, (items, weights, *own) = self.make_inputs(5, 3, 9, 17, device=device)
        leaves = [tensor.requires_grad_() for tensor in floats]
        arguments = (
            *leaves,
            items,
            weights.nan_to_num(),
            *own,
            "cosine",
            5.0,
            None,
            False,
            "triton",
        )
        op = getattr(torch.ops.pdrec_fast, self.loss.__name__).default
        torch.library.opcheck(op, arguments)

    @pytest.mark.parametrize("sparse_grad", [False, True])
    def test_the_host_never_waits(self, sparse_grad, device):
        if device.type != "cuda":
            pytest.skip("only a GPU is waited for")
        floats, rest = self.make_inputs(5, 3, 9, 17, device=device)
        leaves = [tensor.requires_grad_() for tensor in floats]
        settings = {**COSINE, "sparse_grad": sparse_grad, "impl": "triton"}
        torch.autograd.grad(self.loss(*leaves, *rest, **settings), leaves)
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.autograd.grad(self.loss(*leaves, *rest, **settings), leaves)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_float64_is_refused(self, device):
        floats, rest = self.make_inputs(5, 3, 9, 17, device=device, dtype=torch.float64)
        with pytest.raises(BackendError, match=r"'triton'.*states is torch.float64.*reference"):
            self.loss(*floats, *rest, impl="triton", **COSINE)
