"""``corpus_softmax``: the loss and its gradients by hand, and against the reference."""

import math

import pytest
import torch

from pdrec_fast.ops.candidates import _blocks
from pdrec_fast.ops.candidates.corpus_softmax import corpus_softmax
from tests.ops.candidates._block_losses import BlockLossContract, products  # noqa: F401
from tests.ops.candidates._losses import COSINE, DOT, needs_extension, random_candidates, run

# T, C, d, N; of the candidates it has the first.
SIZES = [(1, 1, 3, 2), (3, 1, 2, 1), (37, 1, 64, 20), (5, 1, 61, 5001), (33, 1, 37, 9)]


def loss(states, table, items, weights, *, sparse_grad=False, **settings):
    return corpus_softmax(states, table, items[:, 0], weights, **settings)


def make_inputs(n_rows, n_candidates, width, n_items, *, dtype=torch.float32):
    sizes = n_rows, n_candidates, width, n_items
    floats, items, weights = random_candidates(*sizes, dtype, (n_rows,))
    weights[1::3] = 0
    items[3::5, 0] = -1
    weights[items[:, 0] < 0] = math.nan
    return floats, (items, weights)


class TestContract(BlockLossContract):
    loss, make_inputs = staticmethod(loss), staticmethod(make_inputs)
    weights = torch.zeros(3)
    op = "corpus_softmax"
    test_sparse_gradient_has_the_rows_of_the_candidates = None  # it has every row

    @pytest.fixture(params=SIZES)
    def sizes(self, request):
        return request.param

    @needs_extension
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_items_in_blocks(self, impl, settings, monkeypatch):
        """The logits are computed twice then, and the softmax's sums carried along."""
        floats, rest = self.make_inputs(33, 1, 37, 150)
        loss, gradients = self.run(floats, rest, settings, impl=impl)

        def few(n_tokens, n_items, *_, **__):
            return _blocks._ranges(n_tokens, 20), _blocks._ranges(n_items, 17)

        monkeypatch.setattr(_blocks, "blocks", few)
        other, others = self.run(floats, rest, settings, impl=impl)
        torch.testing.assert_close(loss, other)
        for one, two in zip(gradients, others, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)

    @needs_extension
    def test_custom_op_contracts(self):
        floats, (items, weights) = self.make_inputs(5, 1, 9, 17)
        leaves = [tensor.requires_grad_() for tensor in floats]
        given = *leaves, items, weights.nan_to_num()
        self.opcheck(*given, "cosine", 5.0, None, n_settings=0)

    def test_bad_arguments_of_its_own(self, impl):
        self.refuses(
            impl, {"weights": torch.zeros(3, 2)}, r"weights must have shape \[3\], got \(3, 2\)"
        )
        zeros = torch.zeros(3, 5), torch.zeros(7, 5), torch.zeros(3, 2, dtype=torch.int64)
        with pytest.raises(ValueError, match=r"positives must have shape \[T\], got \(3, 2\)"):
            corpus_softmax(*zeros, torch.zeros(3), impl=impl, **DOT)


def test_dot_by_hand(impl):
    floats = [torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.0], [0.0, -1.0], [0.0, -1.0]])]
    rest = torch.tensor([[0]]), torch.tensor([3.0])
    value, (grad_states, grad_table) = run(loss, floats, rest, DOT, impl=impl)
    parts = math.exp(0.5), 2 * math.exp(-2)
    assert float(value) == pytest.approx(3 * math.log(sum(parts) / parts[0]), rel=1e-6)
    slope = 3 * parts[1] / sum(parts)
    torch.testing.assert_close(grad_states, torch.tensor([[-0.5 * slope, -slope]]))
    torch.testing.assert_close(
        grad_table, slope * torch.tensor([[-1.0, -2.0], [0.5, 1.0], [0.5, 1.0]])
    )


@pytest.mark.parametrize("magnitude", [1e2, 1e4, 1e6])
def test_huge_logits(impl, magnitude):
    floats = [torch.tensor([[magnitude]]), torch.tensor([[1.0], [-1.0]])]
    for positive, expected in ((0, 0.0), (1, 2 * magnitude)):
        rest = torch.tensor([[positive]]), torch.ones(1)
        value, (grad_states, _) = run(loss, floats, rest, DOT, impl=impl)
        assert float(value) == pytest.approx(expected, rel=1e-6)
        torch.testing.assert_close(grad_states, torch.tensor([[2.0 * positive]]))


@needs_extension
def test_states_of_weight_zero_are_not_read():
    floats, _ = make_inputs(3, 1, 5, 7)
    floats[0][1] = math.nan
    rest = torch.tensor([[1], [4], [3]]), torch.tensor([1.0, 0, 2])
    value, gradients = run(loss, floats, rest, COSINE, impl="cpp")
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("broken", ["state", "positive", "negative"])
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_what_is_not_finite_shows(impl, settings, broken):
    floats, _ = make_inputs(3, 1, 5, 7)
    rest = torch.tensor([[1], [4], [3]]), torch.ones(3)
    row = {"state": floats[0][1], "positive": floats[1][4], "negative": floats[1][0]}[broken]
    row[2] = math.nan
    assert run(loss, floats, rest, settings, impl=impl)[0].isnan()


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("n_rows", [0, 3])
def test_nothing_to_sum(impl, n_rows):
    floats, _ = make_inputs(max(n_rows, 1), 1, 5, 7)
    rest = torch.full((n_rows, 1), -1), torch.ones(n_rows)
    value, gradients = run(loss, [floats[0][:n_rows], floats[1]], rest, COSINE, impl=impl)
    assert float(value) == 0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("splits", [False, True])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize(("n_tokens", "n_items"), [(0, 5), (1400, 1), (1400, 37_868), (9, 10**6)])
def test_blocks_are_small_and_cover_everything(n_tokens, n_items, itemsize, splits):
    tokens, items = _blocks.blocks(n_tokens, n_items, itemsize, "cpu", splits=splits)
    for ranges, length in ((tokens, n_tokens), (items, n_items)):
        assert [i for r in ranges for i in range(r.start, r.stop)] == list(range(length))
    for of_tokens in tokens:
        n_values = (of_tokens.stop - of_tokens.start) * (items[0].stop - items[0].start)
        assert n_values * itemsize <= 2**24
