"""``shared_softmax`` in Triton; for how the candidates' gradient is summed see
test_weighted_bce.py."""

import math

import pytest
import torch

from pdrec_fast.ops.candidates.shared_softmax import shared_softmax
from tests.kernels.candidates._losses import (
    COSINE,
    DOT,
    LossContract,
    random_candidates,
    relative_error,
    run,
)

pytest.importorskip("triton", reason="Triton is not installed")

# T, C, d, N: more than a block of candidates and of columns.
SIZES = [(1, 1, 3, 1), (40, 1, 20, 70), (4, 35, 7, 90), (3, 17, 131, 4)]
N_NEGATIVES = 1100  # more than a program holds at a time


def loss(states, table, items, weights, negatives, offsets, **settings):
    return shared_softmax(states, table, items, negatives, offsets, weights, **settings)


def make_inputs(n_tokens, n_candidates, width, n_items, *, device, dtype=torch.float32):
    sizes = n_tokens, n_candidates, width, n_items
    floats, items, weights = random_candidates(*sizes, device, dtype, (n_tokens,))
    weights[1::4] = 0
    items[2::5, 1:] = -1
    weights[items[:, 0] < 0] = math.nan
    generator = torch.Generator().manual_seed(n_items)
    negatives = torch.randint(n_items, (N_NEGATIVES,), generator=generator)
    offsets = torch.randn(N_NEGATIVES, generator=generator)
    return floats, (items, weights, negatives.to(device), offsets.to(device))


@pytest.fixture(params=["atomic", "sparse"])
def way(request):
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
        floats, (items, weights, *shared) = self.make_inputs(5, 3, 9, 17, device=device)
        leaves = [tensor.requires_grad_() for tensor in floats]
        given = *leaves, items, *shared, weights.nan_to_num(), "cosine", 5.0, None
        op = torch.ops.pdrec_fast.shared_softmax.default
        torch.library.opcheck(op, (*given, False, True, True, False, "triton"))

    @pytest.mark.usefixtures("poisoned_memory")
    @pytest.mark.parametrize("what", ["positives", "negatives", "only hits"])
    @pytest.mark.parametrize("n_tokens", [0, 3])
    def test_nothing_to_sum(self, n_tokens, what, way, device):
        floats, _ = make_inputs(max(n_tokens, 1), 2, 5, 7, device=device)
        items = torch.full((n_tokens, 2), -1 if what == "positives" else 4, device=device)
        items[:, 1] = -1
        negatives = torch.full((0 if what == "negatives" else 20,), 4, device=device)
        offsets = torch.zeros(len(negatives), device=device)
        rest = items, torch.ones(n_tokens, device=device), negatives, offsets
        value, gradients = self.run([floats[0][:n_tokens], floats[1]], rest, COSINE, way=way)
        assert float(value) == 0
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("outside", [-2, 5, 2**40])
@pytest.mark.parametrize("place", ["positive", "own", "shared"])
def test_an_item_outside_the_table_makes_the_loss_nan(outside, place, device):
    floats, (items, _, negatives, offsets) = make_inputs(4, 3, 5, 5, device=device)
    items, weights = items.clamp_min(0), torch.ones(4, device=device)
    if place == "shared":
        negatives[3] = outside
    else:
        items[1, 0 if place == "positive" else 2] = outside
    value, (grad_states, _) = run(loss, floats, (items, weights, negatives, offsets), COSINE)
    assert value.isnan()
    assert grad_states[1].isnan().all()


def test_tokens_of_weight_zero_are_not_read(device):
    floats, (_, _, negatives, offsets) = make_inputs(3, 3, 5, 7, device=device)
    items = torch.tensor([[1, 2, 3], [4, 4, 5], [1, 3, 2]], device=device)
    floats[0][1], floats[1][4:6] = math.nan, math.nan
    rest = items, torch.tensor([1.0, 0, 2], device=device), negatives % 4, offsets
    value, gradients = run(loss, floats, rest, COSINE)
    assert value.isfinite()
    assert all(tensor.isfinite().all() for tensor in gradients)
    assert not gradients[0][1].any()


@pytest.mark.parametrize("magnitude", [1e2, 1e6])
def test_huge_logits(magnitude, device):
    floats = [
        torch.tensor([[magnitude]], device=device),
        torch.tensor([[1.0], [-1.0]], device=device),
    ]
    for positive, expected in ((0, 0.0), (1, 2 * magnitude + math.log(2))):
        items = torch.tensor([[positive]], device=device)
        negatives = torch.tensor([1 - positive] * 2, device=device)
        rest = items, torch.ones(1, device=device), negatives, torch.zeros(2, device=device)
        value, (grad_states, _) = run(loss, floats, rest, DOT)
        assert float(value) == pytest.approx(expected, rel=1e-6)
        assert grad_states.tolist() == [[pytest.approx(-0.7 * 2 * positive)]]
