"""``corpus_softmax`` in Triton: all items in one block, or the softmax's sums carried along."""

import math

import pytest
import torch

from pdrec_fast.ops.candidates import _blocks
from pdrec_fast.ops.candidates.corpus_softmax import corpus_softmax
from tests.kernels.candidates._losses import (
    COSINE,
    DOT,
    LossContract,
    random_candidates,
    relative_error,
    run,
)

pytest.importorskip("triton", reason="Triton is not installed")

# T, C, d, N: more items than a program holds at a time; of the candidates it has the first.
SIZES = [(1, 1, 3, 2), (1, 1, 3, 1), (40, 1, 20, 70), (4, 1, 7, 2100)]


def loss(states, table, items, weights, *, sparse_grad=False, **settings):
    return corpus_softmax(states, table, items[:, 0], weights, **settings)


def make_inputs(n_tokens, n_candidates, width, n_items, *, device, dtype=torch.float32):
    sizes = n_tokens, n_candidates, width, n_items
    floats, items, weights = random_candidates(*sizes, device, dtype, (n_tokens,))
    weights[1::4] = 0
    weights[items[:, 0] < 0] = math.nan
    return floats, (items, weights)


@pytest.fixture(params=["whole", "in parts"])
def way(request, monkeypatch):
    """How the items are taken; the table's gradient is a product of matrices."""
    if request.param == "in parts":

        def parts(n_tokens, n_items, *_, **__):
            return _blocks._ranges(n_tokens, 30), _blocks._ranges(n_items, max(1, n_items // 3))

        monkeypatch.setattr(_blocks, "blocks", parts)
    return request.param


class TestContract(LossContract):
    loss, make_inputs = staticmethod(loss), staticmethod(make_inputs)

    @pytest.fixture(params=SIZES)
    def sizes(self, request):
        return request.param

    @pytest.mark.usefixtures("poisoned_memory")
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_bfloat16_rounds_only_the_results(self, settings, way, device):
        """And the products."""
        floats, rest = self.make_inputs(9, 4, 20, 50, device=device, dtype=torch.bfloat16)
        wide = [tensor.double() for tensor in floats]
        truth, true_gradients = self.run(wide, rest, settings, impl="reference")
        value, gradients = self.run(floats, rest, settings, way=way)
        assert value.dtype == torch.float32
        assert relative_error(value, truth) <= 4e-3
        for found, true in zip(gradients, true_gradients, strict=True):
            assert found.dtype == torch.bfloat16
            assert (found.double() - true).norm() <= 2e-2 * true.norm()

    def test_custom_op_contract(self, device):
        floats, (items, weights) = self.make_inputs(5, 1, 9, 17, device=device)
        leaves = [tensor.requires_grad_() for tensor in floats]
        given = *leaves, items, weights.nan_to_num(), "cosine", 5.0, None
        op = torch.ops.pdrec_fast.corpus_softmax.default
        torch.library.opcheck(op, (*given, False, True, True, "triton"))

    @pytest.mark.usefixtures("poisoned_memory")
    @pytest.mark.parametrize("n_tokens", [0, 3])
    def test_nothing_to_sum(self, n_tokens, way, device):
        floats, _ = make_inputs(max(n_tokens, 1), 2, 5, 7, device=device)
        items = torch.full((n_tokens, 1), -1, device=device)
        rest = items, torch.ones(n_tokens, device=device)
        value, gradients = self.run([floats[0][:n_tokens], floats[1]], rest, COSINE, way=way)
        assert float(value) == 0
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("outside", [-2, 5, 2**40])
def test_a_positive_outside_the_table_makes_the_loss_nan(outside, way, device):
    floats, (items, _) = make_inputs(4, 1, 5, 5, device=device)
    items, weights = items.clamp_min(0), torch.ones(4, device=device)
    items[1, 0] = outside
    value, (grad_states, _) = run(loss, floats, (items, weights), COSINE, way="atomic")
    assert value.isnan()
    assert grad_states[1].isnan().all()
    assert grad_states[[0, 2, 3]].isfinite().all()


def test_tokens_of_weight_zero_are_not_read(way, device):
    floats, _ = make_inputs(3, 1, 5, 7, device=device)
    floats[0][1] = math.nan
    items = torch.tensor([[1], [4], [3]], device=device)
    rest = items, torch.tensor([1.0, 0, 2], device=device)
    value, gradients = run(loss, floats, rest, COSINE, way="atomic")
    assert value.isfinite()
    assert all(tensor.isfinite().all() for tensor in gradients)


@pytest.mark.parametrize("magnitude", [1e2, 1e6])
def test_huge_logits(magnitude, way, device):
    floats = [
        torch.tensor([[magnitude]], device=device),
        torch.tensor([[1.0], [-1.0]], device=device),
    ]
    for positive, expected in ((0, 0.0), (1, 2 * magnitude)):
        rest = torch.tensor([[positive]], device=device), torch.ones(1, device=device)
        value, (grad_states, _) = run(loss, floats, rest, DOT, way="atomic")
        assert float(value) == pytest.approx(expected, rel=1e-6)
        assert grad_states.tolist() == [[pytest.approx(-0.7 * 2 * positive)]]
