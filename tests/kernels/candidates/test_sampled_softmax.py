"""``sampled_softmax`` in Triton; for how the table's gradient is summed see
test_weighted_bce.py."""

import math

import pytest
import torch

from pdrec_fast.ops.candidates.sampled_softmax import sampled_softmax
from tests.kernels.candidates._losses import COSINE, DOT, LossContract, random_candidates, run

pytest.importorskip("triton", reason="Triton is not installed")

# T, C, d, N: more than a block of tokens, of candidates and of columns.
SIZES = [(1, 1, 3, 1), (70, 2, 20, 70), (4, 35, 7, 90), (3, 17, 131, 4)]


def make_inputs(n_tokens, n_candidates, width, n_items, *, device, dtype=torch.float32):
    sizes = n_tokens, n_candidates, width, n_items
    floats, items, weights = random_candidates(*sizes, device, dtype, (n_tokens,))
    weights[1::4] = 0
    items[2::5, 1:] = -1
    weights[items[:, 0] < 0] = math.nan
    return floats, (items, weights)


@pytest.fixture(params=["atomic", "sparse"])
def way(request):
    """How the table's gradient is summed; the third way is the business of ``weighted_bce``."""
    return request.param


class TestContract(LossContract):
    loss, make_inputs = staticmethod(sampled_softmax), staticmethod(make_inputs)

    @pytest.fixture(params=SIZES)
    def sizes(self, request):
        return request.param

    @pytest.mark.usefixtures("poisoned_memory")
    @pytest.mark.parametrize("column", [0, 1])
    @pytest.mark.parametrize("n_tokens", [0, 3])
    def test_nothing_to_sum(self, n_tokens, column, way, device):
        floats, (items, _) = make_inputs(n_tokens, 2, 5, 7, device=device)
        items = items.clamp_min(0).index_fill(1, torch.tensor(column, device=device), -1)
        rest = items, torch.ones(n_tokens, device=device)
        loss, (grad_states, grad_table) = self.run(floats, rest, COSINE, way=way)
        assert float(loss) == 0
        assert not grad_states.any()
        assert not grad_table.any()


@pytest.mark.parametrize("outside", [-2, 5, 2**40])
@pytest.mark.parametrize("column", [0, 2])
def test_an_item_outside_the_table_makes_the_loss_nan(outside, column, device):
    floats, (items, _) = make_inputs(4, 3, 5, 5, device=device)
    items, weights = items.clamp_min(0), torch.ones(4, device=device)
    items[1, column] = outside
    loss, (grad_states, _) = run(sampled_softmax, floats, (items, weights), COSINE)
    assert loss.isnan()
    assert grad_states[1].isnan().all()
    assert grad_states[[0, 2, 3]].isfinite().all()


def test_tokens_of_weight_zero_are_not_read(device):
    floats, _ = make_inputs(3, 3, 5, 7, device=device)
    items = torch.tensor([[1, 2, 3], [4, 4, 5], [1, 3, 2]], device=device)
    floats[0][1], floats[1][4:6] = math.nan, math.nan
    weights = torch.tensor([1.0, 0, 2], device=device)
    loss, gradients = run(sampled_softmax, floats, (items, weights), COSINE)
    assert loss.isfinite()
    assert all(tensor.isfinite().all() for tensor in gradients)
    assert not gradients[0][1].any()


@pytest.mark.parametrize("magnitude", [1e2, 1e6])
def test_huge_logits(magnitude, device):
    floats = [
        torch.tensor([[magnitude]], device=device),
        torch.tensor([[1.0], [-1.0]], device=device),
    ]
    for positive, expected in ((0, 0.0), (1, 2 * magnitude + math.log(2))):
        items = torch.tensor([[positive, 1 - positive, 1 - positive]], device=device)
        loss, (grad_states, grad_table) = run(
            sampled_softmax, floats, (items, torch.ones(1, device=device)), DOT
        )
        assert float(loss) == pytest.approx(expected, rel=1e-6)
        assert grad_states.tolist() == [[pytest.approx(-0.7 * 2 * positive)]]
        slope = 0.7 * magnitude * positive
        assert grad_table[:, 0].tolist() == pytest.approx([-slope, slope])


def test_small_losses_keep_their_relative_precision(device):
    for margin in (-60.0, -1.0, 8.0, 20.0, 70.0):
        floats = [
            torch.tensor([[margin]], device=device),
            torch.tensor([[0.5], [-0.5]], device=device),
        ]
        rest = torch.tensor([[0, 1, 1]], device=device), torch.ones(1, device=device)
        loss, (grad_states, _) = run(sampled_softmax, floats, rest, DOT)
        excess = torch.tensor(math.log(2) - margin, dtype=torch.float64)
        truth = torch.nn.functional.softplus(excess, threshold=1e3)
        assert float(loss) == pytest.approx(float(truth), rel=2e-5)
        assert float(grad_states) == pytest.approx(0.7 * float(excess.sigmoid()), rel=2e-5)
