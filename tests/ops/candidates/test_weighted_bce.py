"""``weighted_bce``: the loss and its gradients by hand, against the reference, and bit for bit."""

import math

import numpy as np
import pytest
import torch

from pdrec_fast.build_info import extension
from pdrec_fast.ops.candidates.weighted_bce import weighted_bce
from tests.ops.candidates._losses import (
    COSINE,
    DOT,
    LossContract,
    needs_extension,
    random_candidates,
    run,
)

# T, C, d, N, n_positives; more candidates than items repeat them within a row.
SIZES = [
    (1, 1, 1, 1, 0),
    (1, 1, 3, 2, 1),
    (37, 3, 64, 20, 1),
    (5, 130, 61, 300, 40),
    (33, 7, 37, 3, 2),
    (2, 5, 301, 11, 5),
]


def make_inputs(n_rows, n_candidates, width, n_items, n_positives=2, *, dtype=torch.float32):
    shape = n_rows, n_candidates
    floats, items, weights = random_candidates(*shape, width, n_items, dtype, shape)
    weights[:, ::3] = 0
    weights[items < 0] = math.nan
    return floats, (items, weights, n_positives)


class TestContract(LossContract):
    loss, make_inputs = staticmethod(weighted_bce), staticmethod(make_inputs)
    own_settings, weights = {"n_positives": 1}, torch.zeros(3, 2)

    @pytest.fixture(params=SIZES)
    def sizes(self, request):
        return request.param

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"weights": torch.zeros(3)}, r"weights must have the shape of items, \(3, 2\)"),
            ({"n_positives": 3}, "n_positives must lie in 0 .. 2, got 3"),
            ({"n_positives": -1}, "n_positives must lie in 0 .. 2, got -1"),
        ],
    )
    def test_bad_arguments_of_its_own(self, impl, change, message):
        self.refuses(impl, change, message)


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_dot_by_hand(impl, sparse_grad):
    floats = [torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.0], [0.0, -1.0], [7.0, 7.0]])]
    rest = torch.tensor([[0, 1, 1, -1]]), torch.tensor([[2.0, 1.0, 3.0, 9.0]]), 2
    loss, (grad_states, grad_table) = run(
        weighted_bce, floats, rest, DOT, impl=impl, sparse_grad=sparse_grad
    )
    # Logits 0.5 and -2 of positives, -2 of a negative.
    expected = (
        2 * math.log1p(math.exp(-0.5)) + math.log1p(math.exp(2)) + 3 * math.log1p(math.exp(-2))
    )
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    first = -2 / (1 + math.exp(0.5))
    second = -1 / (1 + math.exp(-2)) + 3 / (1 + math.exp(2))
    torch.testing.assert_close(grad_states, torch.tensor([[0.5 * first, -second]]))
    if sparse_grad:
        assert grad_table.is_sparse
        grad_table = grad_table.to_dense()
    torch.testing.assert_close(
        grad_table, torch.tensor([[first, 2 * first], [second, 2 * second], [0, 0]])
    )


def test_cosine_by_hand(impl):
    floats = [torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]])]
    rest = torch.tensor([[0]]), torch.tensor([[1.0]]), 0
    loss, (grad_states, grad_table) = run(
        weighted_bce, floats, rest, {"similarity": "cosine", "temperature": 5.0}, impl=impl
    )
    slope = 1 / (1 + math.exp(-3))
    assert float(loss) == pytest.approx(math.log1p(math.exp(3)), rel=1e-6)
    # 5 cos = 3: by the state 5 (v / (|u||v|) - 0.6 u / |u|^2), by the item likewise.
    grad_state = torch.tensor([[1.0 - 3 * 3 / 25, -3 * 4 / 25]])
    grad_item = torch.tensor([[1.5 - 3 * 2 / 4, 2.0]])
    torch.testing.assert_close(grad_states, slope * grad_state)
    torch.testing.assert_close(grad_table, slope * grad_item)


@needs_extension
def test_sparse_gradient_joins_that_of_an_embedding():
    floats, rest = make_inputs(9, 4, 5, 30, 1)
    places = torch.tensor([3, 3, 8])

    def gradient(impl, sparse):
        table = floats[1].clone().requires_grad_()
        rows = torch.nn.functional.embedding(places, table, sparse=sparse)
        loss = weighted_bce(floats[0], table, *rest, sparse_grad=sparse, impl=impl, **COSINE)
        (loss + rows.square().sum()).backward()
        return table.grad

    assert gradient("cpp", True).is_sparse
    torch.testing.assert_close(gradient("cpp", True).to_dense(), gradient("reference", False))


@needs_extension
@pytest.mark.parametrize("n_items", [1, 5, 2**11, 2**22, 2**31 - 1])
def test_groups_are_a_stable_sort_of_the_places(n_items):
    items = np.random.default_rng(n_items).integers(-1, n_items, (7, 301), dtype=np.int32)
    items[3, :5] = n_items - 1
    group_items, starts, order = extension.group_by_item(items)
    flat = items.ravel()
    expected = np.argsort(flat, kind="stable")[(flat < 0).sum() :]
    assert np.array_equal(order, expected)
    unique, first = np.unique(flat[expected], return_index=True)
    assert np.array_equal(group_items, unique)
    assert np.array_equal(starts, [*first, len(expected)])


@pytest.mark.parametrize("magnitude", [1e2, 1e4, 1e6])
def test_huge_logits(impl, magnitude):
    floats = [torch.tensor([[magnitude]]), torch.tensor([[1.0], [-1.0]])]
    rest = torch.tensor([[0, 1, 0, 1]]), torch.ones(1, 4), 2
    loss, (grad_states, grad_table) = run(weighted_bce, floats, rest, DOT, impl=impl)
    assert float(loss) == pytest.approx(2 * magnitude)
    torch.testing.assert_close(grad_states, torch.tensor([[2.0]]))
    torch.testing.assert_close(grad_table, torch.tensor([[magnitude], [-magnitude]]))


def test_small_losses_keep_their_relative_precision(impl):
    logits = torch.linspace(-80, 80, 1601)[:, None]
    table = torch.ones(1, 1)
    items = torch.zeros(1, 1, dtype=torch.int64)
    for logit in logits[::40]:
        loss, (grad_states, _) = run(
            weighted_bce, [logit[None], table], (items, torch.ones(1, 1), 0), DOT, impl=impl
        )
        wide = logit.double()
        assert float(loss) == pytest.approx(float(torch.logaddexp(wide, 0 * wide)), rel=5e-7)
        assert float(grad_states) == pytest.approx(float(torch.sigmoid(wide)), rel=5e-7)


@needs_extension
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_weights_of_zero_and_absent_items_are_alike(settings):
    floats, (items, weights, n_positives) = make_inputs(9, 80, 5, 30, 3)
    removed = items.masked_fill(weights == 0, -1)
    loss, gradients = run(weighted_bce, floats, (items, weights, n_positives), settings, impl="cpp")
    other, other_gradients = run(
        weighted_bce, floats, (removed, weights, n_positives), settings, impl="cpp"
    )
    assert torch.equal(loss, other)
    assert all(map(torch.equal, gradients, other_gradients))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize(("n_rows", "n_candidates"), [(0, 3), (3, 0), (3, 2)])
def test_nothing_to_sum(impl, n_rows, n_candidates, sparse_grad):
    floats, (items, weights, _) = make_inputs(n_rows, n_candidates, 5, 7, 0)
    rest = torch.full_like(items, -1), weights, n_candidates
    loss, (grad_states, grad_table) = run(
        weighted_bce, floats, rest, COSINE, impl=impl, sparse_grad=sparse_grad
    )
    assert float(loss) == 0
    assert grad_states.shape == floats[0].shape
    assert not grad_states.any()
    assert grad_table.shape == floats[1].shape
    assert not grad_table.to_dense().any()
