"""``shared_softmax``: the loss and its gradients by hand, and against the reference."""

import math
from typing import ClassVar

import pytest
import torch

from pdrec_fast.ops.candidates.corpus_softmax import corpus_softmax
from pdrec_fast.ops.candidates.sampled_softmax import sampled_softmax
from pdrec_fast.ops.candidates.shared_softmax import shared_softmax
from tests.ops.candidates._block_losses import BlockLossContract, products  # noqa: F401
from tests.ops.candidates._losses import COSINE, DOT, needs_extension, random_candidates, run

# T, C, d, N: accidental hits and repeated negatives; more negatives than lanes, and no multiple.
SIZES = [(1, 1, 3, 2), (1, 2, 1, 1), (37, 3, 64, 20), (5, 130, 61, 300), (33, 1, 37, 9)]


def loss(states, table, items, weights, negatives, offsets, **settings):
    return shared_softmax(states, table, items, negatives, offsets, weights, **settings)


def make_inputs(n_rows, n_candidates, width, n_items, *, dtype=torch.float32):
    sizes = n_rows, n_candidates, width, n_items
    floats, items, weights = random_candidates(*sizes, dtype, (n_rows,))
    weights[1::3] = 0
    items[2::5, 1:] = -1
    items[3::5, 0] = -1
    weights[items[:, 0] < 0] = math.nan
    generator = torch.Generator().manual_seed(n_items)
    negatives = torch.randint(n_items, (37,), generator=generator)
    return floats, (items, weights, negatives, torch.randn(37, generator=generator))


class TestContract(BlockLossContract):
    loss, make_inputs = staticmethod(loss), staticmethod(make_inputs)
    weights = torch.zeros(3)
    own_settings: ClassVar = {
        "negatives": torch.zeros(4, dtype=torch.int64),
        "offsets": torch.zeros(4),
    }
    op = "shared_softmax"

    @pytest.fixture(params=SIZES)
    def sizes(self, request):
        return request.param

    @needs_extension
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_sparse_gradient_has_the_rows_of_the_candidates(self, settings):
        floats, rest = self.make_inputs(33, 7, 37, 500)
        _, (_, dense) = self.run(floats, rest, settings, impl="cpp")
        _, (_, sparse) = self.run(floats, rest, settings, impl="cpp", sparse_grad=True)
        assert sparse.layout == torch.sparse_coo
        items = torch.cat([rest[0].flatten(), rest[2]])
        assert torch.equal(sparse.coalesce().indices()[0], items[items >= 0].unique())
        torch.testing.assert_close(sparse.to_dense(), dense)

    @needs_extension
    def test_custom_op_contracts(self):
        floats, (items, weights, negatives, offsets) = self.make_inputs(5, 7, 9, 17)
        leaves = [tensor.requires_grad_() for tensor in floats]
        given = *leaves, items, negatives, offsets, weights.nan_to_num()
        self.opcheck(*given, "cosine", 5.0, None, n_settings=1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"items": torch.zeros(3, 0, dtype=torch.int64)}, "a first column, the positives"),
            ({"weights": torch.zeros(3, 2)}, r"weights must have shape \[3\], got \(3, 2\)"),
            ({"negatives": torch.tensor([0, 1, 7, 2])}, "must lie in 0 .. 6, got 7 at 2"),
            ({"negatives": torch.tensor([0, -1, 3, 2])}, "must lie in 0 .. 6, got -1 at 1"),
            ({"offsets": torch.zeros(3)}, r"offsets must be torch.float32 of shape \[4\]"),
            ({"negatives": torch.zeros(4)}, "negatives must be torch.int64"),
        ],
    )
    def test_bad_arguments_of_its_own(self, impl, change, message):
        self.refuses(impl, change, message)


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_dot_by_hand(impl, sparse_grad):
    floats = [torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.0], [0.0, -1.0], [7.0, 7.0]])]
    # The positive is drawn once, which does not count; item 1 twice.
    negatives, offsets = torch.tensor([1, 0, 1]), torch.tensor([0.5, 3.0, 0.5])
    rest = torch.tensor([[0]]), torch.tensor([3.0]), negatives, offsets
    value, (grad_states, grad_table) = run(
        loss, floats, rest, DOT, impl=impl, sparse_grad=sparse_grad
    )
    parts = math.exp(0.5), 2 * math.exp(-2 + 0.5)
    assert float(value) == pytest.approx(3 * math.log(sum(parts) / parts[0]), rel=1e-6)
    slope = 3 * parts[1] / sum(parts)
    torch.testing.assert_close(grad_states, torch.tensor([[-0.5 * slope, -slope]]))
    assert grad_table.is_sparse == sparse_grad
    torch.testing.assert_close(
        grad_table.to_dense(), slope * torch.tensor([[-1.0, -2.0], [1.0, 2.0], [0.0, 0.0]])
    )


@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_negatives_may_be_shared_or_each_states_own(impl, settings):
    floats, (items, weights, negatives, _) = make_inputs(9, 3, 5, 1000)
    offsets = torch.zeros(len(negatives))
    assert not torch.isin(items[:, 0], negatives).any()
    value, gradients = run(loss, floats, (items, weights, negatives, offsets), settings, impl=impl)
    both = torch.cat([items, negatives.expand(9, -1)], dim=1)
    other, others = run(sampled_softmax, floats, (both, weights), settings, impl=impl)
    torch.testing.assert_close(value, other)
    for one, two in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_every_item_once_is_the_corpus(impl, settings):
    floats, (items, weights, *_) = make_inputs(9, 1, 5, 40)
    rest = items, weights, torch.arange(40), torch.zeros(40)
    value, gradients = run(loss, floats, rest, settings, impl=impl)
    leaves = [x.requires_grad_() for x in floats]
    other = corpus_softmax(*leaves, items[:, 0], weights, impl=impl, **settings)
    torch.testing.assert_close(value, other.detach())
    for one, two in zip(gradients, torch.autograd.grad(other, leaves), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("magnitude", [1e2, 1e4, 1e6])
def test_huge_logits(impl, magnitude):
    floats = [torch.tensor([[magnitude]]), torch.tensor([[1.0], [-1.0]])]
    for positive, expected in ((0, 0.0), (1, 2 * magnitude + math.log(2))):
        rest = torch.tensor([[positive]]), torch.ones(1), torch.tensor([1 - positive] * 2)
        value, (grad_states, _) = run(loss, floats, (*rest, torch.zeros(2)), DOT, impl=impl)
        assert float(value) == pytest.approx(expected, rel=1e-6)
        torch.testing.assert_close(grad_states, torch.tensor([[2.0 * positive]]))


@needs_extension
def test_small_losses_keep_their_relative_precision():
    for margin in torch.linspace(-60, 80, 41):
        floats = [margin.view(1, 1), torch.tensor([[0.5], [-0.5]])]
        rest = torch.tensor([[0]]), torch.ones(1), torch.tensor([1, 1]), torch.zeros(2)
        value, (grad_states, _) = run(loss, floats, rest, DOT, impl="cpp")
        excess = math.log(2) - margin.double()
        assert float(value) == pytest.approx(float(torch.logaddexp(excess, 0 * excess)), rel=5e-6)
        assert float(grad_states) == pytest.approx(-float(excess.sigmoid()), rel=5e-6)


@needs_extension
def test_states_of_weight_zero_and_their_candidates_are_not_read():
    floats, (_, _, negatives, offsets) = make_inputs(3, 2, 5, 7)
    items = torch.tensor([[1, 2], [4, 5], [1, 3]])
    floats[0][1], floats[1][4:6] = math.nan, math.nan
    rest = items, torch.tensor([1.0, 0, 2]), negatives % 4, offsets
    value, gradients = run(loss, floats, rest, COSINE, impl="cpp")
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[0][1].any()


@pytest.mark.parametrize("broken", ["state", "positive", "own", "shared", "offset"])
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_what_is_not_finite_shows(impl, settings, broken):
    floats, (_, _, negatives, offsets) = make_inputs(3, 2, 5, 7)
    rest = torch.tensor([[1, 2], [4, 5], [3, 2]]), torch.ones(3), negatives % 4, offsets
    rows = {"state": floats[0][1], "positive": floats[1][4], "own": floats[1][5]}
    rows |= {"shared": floats[1][0], "offset": offsets}
    rows[broken][2] = math.nan
    assert run(loss, floats, rest, settings, impl=impl)[0].isnan()


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("what", ["positives", "negatives", "only hits"])
@pytest.mark.parametrize("n_rows", [0, 3, 600])
def test_nothing_to_sum(impl, n_rows, what, sparse_grad):
    floats, _ = make_inputs(max(n_rows, 1), 2, 5, 7)
    items = torch.full((n_rows, 2), -1 if what == "positives" else 4)
    items[:, 1] = -1
    negatives = torch.full((0 if what == "negatives" else 20,), 4)
    rest = items, torch.ones(n_rows), negatives, torch.zeros(len(negatives))
    value, (grad_states, grad_table) = run(
        loss, [floats[0][:n_rows], floats[1]], rest, COSINE, impl=impl, sparse_grad=sparse_grad
    )
    assert float(value) == 0
    assert grad_states.shape == (n_rows, 5)
    assert not grad_states.any()
    assert not grad_table.to_dense().any()
