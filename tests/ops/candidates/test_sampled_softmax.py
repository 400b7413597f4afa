"""``sampled_softmax``: the loss and its gradients by hand, against the reference, bit for bit."""

import math

import pytest
import torch

from pdrec_fast.ops.candidates.sampled_softmax import sampled_softmax
from pdrec_fast.ops.candidates.weighted_bce import weighted_bce
from tests.ops.candidates._losses import (
    COSINE,
    DOT,
    LossContract,
    needs_extension,
    random_candidates,
    run,
)

# T, C, d, N: more candidates than a block, and items that a row repeats, its positive as well.
SIZES = [(1, 1, 3, 2), (1, 2, 1, 1), (37, 3, 64, 20), (5, 130, 61, 300), (33, 65, 37, 9)]


def make_inputs(n_rows, n_candidates, width, n_items, *, dtype=torch.float32):
    sizes = n_rows, n_candidates, width, n_items
    floats, items, weights = random_candidates(*sizes, dtype, (n_rows,))
    weights[1::3] = 0
    items[2::5, 1:] = -1
    items[3::5, 0] = -1
    weights[items[:, 0] < 0] = math.nan
    return floats, (items, weights)


class TestContract(LossContract):
    loss, make_inputs = staticmethod(sampled_softmax), staticmethod(make_inputs)
    weights = torch.zeros(3)

    @pytest.fixture(params=SIZES)
    def sizes(self, request):
        return request.param

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"items": torch.zeros(3, 0, dtype=torch.int64)}, "a first column, the positives"),
            ({"weights": torch.zeros(3, 2)}, r"weights must have shape \[3\], got \(3, 2\)"),
        ],
    )
    def test_bad_arguments_of_its_own(self, impl, change, message):
        self.refuses(impl, change, message)


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_dot_by_hand(impl, sparse_grad):
    floats = [torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.0], [0.0, -1.0], [7.0, 7.0]])]
    rest = torch.tensor([[0, 1, -1, 1]]), torch.tensor([3.0])
    loss, (grad_states, grad_table) = run(
        sampled_softmax, floats, rest, DOT, impl=impl, sparse_grad=sparse_grad
    )
    # The logit 0.5 of the positive, -2 of both negatives.
    parts = math.exp(0.5), 2 * math.exp(-2)
    assert float(loss) == pytest.approx(3 * math.log(sum(parts) / parts[0]), rel=1e-6)
    slope = 3 * parts[1] / sum(parts)
    torch.testing.assert_close(grad_states, torch.tensor([[-0.5 * slope, -slope]]))
    assert grad_table.is_sparse == sparse_grad
    torch.testing.assert_close(
        grad_table.to_dense(), slope * torch.tensor([[-1.0, -2.0], [1.0, 2.0], [0.0, 0.0]])
    )


def test_cosine_by_hand(impl):
    floats = [torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [0.0, 5.0]])]
    rest = torch.tensor([[1, 0]]), torch.tensor([1.0])
    loss, (grad_states, grad_table) = run(sampled_softmax, floats, rest, COSINE, impl=impl)
    slope = 1 / (1 + math.e)  # logits 4 and 3
    assert float(loss) == pytest.approx(math.log1p(math.exp(-1)), rel=1e-6)
    # 5 cos by the state: 5 (v / (|u||v|) - cos u / |u|^2); by the item likewise.
    grad_state = torch.tensor([[-4 * 3 / 25, 1 - 4 * 4 / 25], [1 - 3 * 3 / 25, -3 * 4 / 25]])
    grad_item = torch.tensor([[1.5 - 3 * 2 / 4, 2.0], [3 / 5, 0.8 - 4 * 5 / 25]])
    torch.testing.assert_close(grad_states, slope * (grad_state[1] - grad_state[0])[None])
    torch.testing.assert_close(grad_table, slope * torch.stack([grad_item[0], -grad_item[1]]))


def test_against_one_negative_it_is_the_logistic_loss_of_the_difference(impl):
    floats, _ = make_inputs(9, 2, 5, 7)
    items = torch.arange(18).view(9, 2) % 7
    loss, (grad_states, _) = run(sampled_softmax, floats, (items, torch.ones(9)), DOT, impl=impl)
    states, differences = floats[0], floats[1][items[:, 0]] - floats[1][items[:, 1]]
    rest = torch.arange(9)[:, None], torch.ones(9, 1), 1
    states.requires_grad_()
    other = weighted_bce(states, differences, *rest, impl="reference", **DOT)
    other.backward()
    torch.testing.assert_close(loss, other.detach())
    torch.testing.assert_close(grad_states, states.grad)


@pytest.mark.parametrize("magnitude", [1e2, 1e4, 1e6])
def test_huge_logits(impl, magnitude):
    floats = [torch.tensor([[magnitude]]), torch.tensor([[1.0], [-1.0]])]
    for positive, expected in ((0, 0.0), (1, 2 * magnitude + math.log(2))):
        rest = torch.tensor([[positive, 1 - positive, 1 - positive]]), torch.ones(1)
        loss, (grad_states, grad_table) = run(sampled_softmax, floats, rest, DOT, impl=impl)
        assert float(loss) == pytest.approx(expected, rel=1e-6)
        torch.testing.assert_close(grad_states, torch.tensor([[2.0 * positive]]))
        slope = magnitude * positive
        torch.testing.assert_close(grad_table, torch.tensor([[slope], [-slope]]))


@needs_extension
def test_small_losses_keep_their_relative_precision():
    for margin in torch.linspace(-60, 80, 41):
        floats = [margin.view(1, 1), torch.tensor([[0.5], [-0.5]])]
        rest = torch.tensor([[0, 1, 1]]), torch.ones(1)
        loss, (grad_states, _) = run(sampled_softmax, floats, rest, DOT, impl="cpp")
        excess = math.log(2) - margin.double()
        truth = torch.logaddexp(excess, 0 * excess)
        assert float(loss) == pytest.approx(float(truth), rel=5e-6)
        assert float(grad_states) == pytest.approx(-float(excess.sigmoid()), rel=5e-6)


@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_absent_negatives_are_as_if_they_were_left_out(impl, settings):
    floats, _ = make_inputs(3, 4, 5, 7)
    items, weights = torch.tensor([[1, -1, 3, -1], [0, 2, -1, -1], [5, -1, -1, 6]]), torch.ones(3)
    shorter = torch.tensor([[1, 3], [0, 2], [5, 6]])
    loss, gradients = run(sampled_softmax, floats, (items, weights), settings, impl=impl)
    other, others = run(sampled_softmax, floats, (shorter, weights), settings, impl=impl)
    torch.testing.assert_close(loss, other)
    for one, two in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, two)


@needs_extension
def test_states_of_weight_zero_and_their_items_are_not_read():
    floats, (items, _) = make_inputs(3, 4, 5, 7)
    items = torch.tensor([[1, 2, 3], [4, 4, 5], [1, 3, 2]])
    floats[0][1], floats[1][4:6] = math.nan, math.nan
    loss, gradients = run(
        sampled_softmax, floats, (items, torch.tensor([1.0, 0, 2])), COSINE, impl="cpp"
    )
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[0][1].any()


@pytest.mark.parametrize("broken", ["state", "positive", "negative"])
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_what_is_not_finite_shows(impl, settings, broken):
    floats, _ = make_inputs(3, 4, 5, 7)
    rest = torch.tensor([[1, 2, -1], [4, 5, -1], [3, 2, -1]]), torch.ones(3)
    row = {"state": floats[0][1], "positive": floats[1][4], "negative": floats[1][5]}[broken]
    row[2] = math.nan
    assert run(sampled_softmax, floats, rest, settings, impl=impl)[0].isnan()


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("n_rows", [0, 3])
def test_nothing_to_sum(impl, n_rows, column, sparse_grad):
    floats, (items, _) = make_inputs(n_rows, 2, 5, 7)
    items = items.clamp_min(0).index_fill(1, torch.tensor(column), -1)
    rest = items, torch.ones(n_rows)
    loss, (grad_states, grad_table) = run(
        sampled_softmax, floats, rest, COSINE, impl=impl, sparse_grad=sparse_grad
    )
    assert float(loss) == 0
    assert grad_states.shape == floats[0].shape
    assert not grad_states.any()
    assert grad_table.shape == floats[1].shape
    assert not grad_table.to_dense().any()
