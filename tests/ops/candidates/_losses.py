"""What every loss of candidates' logits keeps; the test of one inherits it and adds its formula."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.errors import BackendError

needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
DOT = {"similarity": "dot", "temperature": 1.0}
COSINE = {"similarity": "cosine", "temperature": 5.0}


def random_candidates(n_rows, n_candidates, width, n_items, dtype, weights_shape):
    """([states, table], items, weights); some items are absent, none of the weights is 0."""
    generator = torch.Generator().manual_seed(width)
    states = torch.randn(n_rows, width, dtype=torch.float64, generator=generator).to(dtype)
    table = torch.randn(n_items, width, dtype=torch.float64, generator=generator).to(dtype)
    items = torch.randint(-1, n_items, (n_rows, n_candidates), generator=generator)
    return [states, table], items, torch.rand(weights_shape, generator=generator)


def run(loss, floats, rest, settings, *, impl, sparse_grad=False, grad_loss=1.0):
    """The loss and the gradients by ``states`` and ``table``."""
    leaves = [tensor.detach().requires_grad_() for tensor in floats]
    value = loss(*leaves, *rest, impl=impl, sparse_grad=sparse_grad, **settings)
    return value.detach(), torch.autograd.grad(value * grad_loss, leaves)


def relative_error(found, truth):
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-30))


class LossContract:
    """Attributes: ``loss``; ``make_inputs(T, C, d, N, *, dtype)``, which gives ([states, table],
    (items, weights, ...)); ``own_settings``, those of the op between weights and similarity;
    ``weights`` of the right shape for T = 3 and C = 2. Fixture: ``sizes``, arguments of
    ``make_inputs``.
    """

    loss: Callable[..., torch.Tensor]
    make_inputs: Callable[..., Any]
    own_settings: ClassVar[dict[str, Any]] = {}
    weights: torch.Tensor

    def run(self, *args, **keywords):
        return run(self.loss, *args, **keywords)

    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_reference_gradients_match_finite_differences(self, settings):
        floats, rest = self.make_inputs(6, 5, 3, 6, dtype=torch.float64)
        for tensor in floats:
            tensor.requires_grad_()
        torch.autograd.gradcheck(
            lambda states, table: self.loss(states, table, *rest, impl="reference", **settings),
            floats,
        )

    @pytest.mark.usefixtures("poisoned_memory")
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    @pytest.mark.parametrize("sparse_grad", [False, True])
    def test_error_is_at_most_that_of_plain_torch(self, impl, sizes, settings, sparse_grad):
        floats, rest = self.make_inputs(*sizes)
        wide = [tensor.double() for tensor in floats]
        scaled = {"grad_loss": -0.7}
        truth, true_gradients = self.run(wide, rest, settings, impl="reference", **scaled)
        eager, eager_gradients = self.run(floats, rest, settings, impl="reference", **scaled)
        loss, gradients = self.run(
            floats, rest, settings, impl=impl, sparse_grad=sparse_grad, **scaled
        )
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), truth, rtol=1e-5, atol=0)
        assert relative_error(loss, truth) <= 1.5 * relative_error(eager, truth) + 2e-7
        for found, by_eager, true in zip(gradients, eager_gradients, true_gradients, strict=True):
            found = found.to_dense()
            assert relative_error(found, true) <= 1e-4 or not true.any()
            assert relative_error(found, true) <= 1.5 * relative_error(by_eager, true) + 5e-7

    @needs_extension
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_sparse_gradient_has_the_rows_of_the_candidates(self, settings):
        floats, rest = self.make_inputs(33, 7, 37, 500)
        _, (_, dense) = self.run(floats, rest, settings, impl="cpp")
        _, (_, sparse) = self.run(floats, rest, settings, impl="cpp", sparse_grad=True)
        assert sparse.layout == torch.sparse_coo
        assert sparse.is_coalesced()
        assert torch.equal(sparse.indices()[0], rest[0][rest[0] >= 0].unique())
        assert torch.equal(sparse.to_dense(), dense)

    def test_norms_below_eps_count_as_constant(self, impl):
        floats = [
            torch.tensor([[0.0, 0.0], [3e-13, 4e-13]]),
            torch.tensor([[0.0, 0.0], [1.0, 1.0]]),
        ]
        _, (_, weights, *own) = self.make_inputs(2, 2, 3, 2)
        for items in ([[0, 1], [0, 1]], [[0, 1], [1, 0]]):
            rest = torch.tensor(items), torch.ones_like(weights), *own
            _, expected = self.run([x.double() for x in floats], rest, COSINE, impl="reference")
            _, found = self.run(floats, rest, COSINE, impl=impl)
            for one, other in zip(found, expected, strict=True):
                assert one.isfinite().all()
                torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_strided_inputs_and_int32_items(self, impl, settings):
        floats, (items, weights, *own) = self.make_inputs(33, 7, 37, 50)
        loss, gradients = self.run(floats, (items, weights, *own), settings, impl=impl)
        strided = [tensor.T.contiguous().T for tensor in (*floats, items.int())]
        strided.append(torch.stack([weights, weights], dim=-1)[..., 0])
        assert not any(tensor.is_contiguous() for tensor in strided)
        other, others = self.run(strided[:2], (*strided[2:], *own), settings, impl=impl)
        torch.testing.assert_close(other, loss)
        for one, two in zip(others, gradients, strict=True):
            torch.testing.assert_close(one, two)

    @needs_extension
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_bits_depend_neither_on_threads_nor_on_the_instruction_set(self, settings):
        floats, rest = self.make_inputs(701, 70, 61, 300)
        before, threads = build_info()["isa"], torch.get_num_threads()
        results = []
        for isa in build_info()["isas_runnable"]:
            extension.set_isa(isa)
            for n_threads in (1, 2, 3):
                torch.set_num_threads(n_threads)
                loss, gradients = self.run(floats, rest, settings, impl="cpp")
                results.append((loss, *gradients))
        torch.set_num_threads(threads)
        extension.set_isa(before)
        for result in results:
            assert all(map(torch.equal, result, results[0]))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_learned_temperature_has_its_gradient(self, impl, dtype):
        floats, rest = self.make_inputs(33, 7, 37, 50)
        values = []
        for kind, given in ((impl, floats), ("reference", [x.double() for x in floats])):
            learned = torch.tensor(5.0, dtype=dtype, requires_grad=True)
            leaves = [*(x.detach().requires_grad_() for x in given), learned]
            loss = self.loss(
                *leaves[:2], *rest, impl=kind, similarity="cosine", temperature=learned
            )
            values.append((loss.detach(), *torch.autograd.grad(loss * -0.7, leaves)))
        plain, gradients = self.run(floats, rest, COSINE, impl=impl, grad_loss=-0.7)
        for found, expected in zip(values[0], (plain, *gradients), strict=False):
            torch.testing.assert_close(found, expected, check_dtype=False)
        torch.testing.assert_close(values[0][3], values[1][3], check_dtype=False)

    def test_a_temperature_that_is_a_tensor_may_be_the_only_leaf(self, impl):
        floats, rest = self.make_inputs(9, 4, 5, 7)
        learned = torch.tensor(5.0, requires_grad=True)
        self.loss(*floats, *rest, impl=impl, similarity="cosine", temperature=learned).backward()
        assert learned.grad.isfinite()
        assert learned.grad != 0
        constant = torch.tensor(5.0)
        loss = self.loss(*floats, *rest, impl=impl, similarity="cosine", temperature=constant)
        assert not loss.requires_grad
        torch.testing.assert_close(loss, self.loss(*floats, *rest, impl=impl, **COSINE))

    def test_no_gradient_flows_to_the_weights(self, impl):
        floats, (items, weights, *own) = self.make_inputs(5, 7, 9, 17)
        weights.requires_grad_()
        floats[0].requires_grad_()
        self.loss(*floats, items, weights, *own, impl=impl, **DOT).backward()
        assert floats[0].grad.any()
        assert weights.grad is None

    @needs_extension
    def test_backward_can_run_again_and_leaves_inputs_alone(self):
        floats, rest = self.make_inputs(5, 7, 9, 17)
        before = [tensor.clone() for tensor in (*floats, *rest[:2])]
        leaves = [tensor.requires_grad_() for tensor in floats]
        loss = self.loss(*leaves, *rest, impl="cpp", **COSINE)
        first = torch.autograd.grad(loss, leaves, retain_graph=True)
        assert all(map(torch.equal, torch.autograd.grad(loss, leaves), first))
        for old, new in zip(before, (*floats, *rest[:2]), strict=True):
            torch.testing.assert_close(new, old, rtol=0, atol=0, equal_nan=True)

    @needs_extension
    def test_second_derivatives_are_refused(self):
        floats, rest = self.make_inputs(5, 7, 9, 17)
        leaves = [tensor.requires_grad_() for tensor in floats]
        loss = self.loss(*leaves, *rest, impl="cpp", **COSINE)
        gradients = torch.autograd.grad(loss, leaves, create_graph=True)
        with pytest.raises(RuntimeError, match="no autograd formula"):
            gradients[0].sum().backward()

    @needs_extension
    @pytest.mark.parametrize("wanted", [0, 1])
    def test_only_the_gradients_asked_for_are_computed(self, wanted, monkeypatch):
        name = ("table_gradient", "states_gradient")[wanted]
        monkeypatch.setattr(extension, name, None)
        floats, rest = self.make_inputs(5, 7, 9, 17)
        floats[wanted].requires_grad_()
        self.loss(*floats, *rest, impl="cpp", **COSINE).backward()
        assert floats[wanted].grad.any()

    @needs_extension
    @pytest.mark.parametrize("value", [0.0, math.nan])
    def test_a_learned_temperature_that_has_gone_astray_is_refused(self, value):
        floats, rest = self.make_inputs(5, 7, 9, 17)
        with pytest.raises(ValueError, match=f"finite and not 0, got a tensor that holds {value}"):
            self.loss(
                *floats, *rest, impl="cpp", similarity="cosine", temperature=torch.tensor(value)
            )

    @needs_extension
    def test_float64_runs_in_the_reference(self):
        floats, rest = self.make_inputs(5, 7, 9, 17, dtype=torch.float64)
        assert self.loss(*floats, *rest, **COSINE).dtype == torch.float64
        with pytest.raises(BackendError, match=r"states is torch.float64 on cpu.*reference"):
            self.loss(*floats, *rest, impl="cpp", **COSINE)

    @needs_extension
    def test_autocast_and_half_precision_states_keep_a_float32_loss(self):
        (states, table), rest = self.make_inputs(5, 7, 9, 17)
        exact = self.loss(states.bfloat16().float(), table, *rest, impl="cpp", **COSINE)
        half = states.bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.loss(half, table, *rest, impl="cpp", **COSINE)
        assert torch.equal(loss, exact)
        loss.backward()
        assert half.grad.dtype == torch.bfloat16

    @needs_extension
    @pytest.mark.parametrize("sparse_grad", [False, True])
    def test_a_table_of_half_precision_has_such_a_gradient(self, sparse_grad):
        floats, rest = self.make_inputs(9, 3, 16, 17)
        floats = [x.bfloat16().float() for x in floats]
        _, (_, expected) = self.run(floats, rest, COSINE, impl="cpp")
        given = floats[0], floats[1].bfloat16()
        _, (_, found) = self.run(given, rest, COSINE, impl="cpp", sparse_grad=sparse_grad)
        assert found.dtype == torch.bfloat16
        error = (found.to_dense().float() - expected).norm()
        assert error <= 1e-2 * expected.norm()

    @needs_extension
    def test_custom_op_contracts(self):
        floats, (items, weights, *own) = self.make_inputs(5, 7, 9, 17)
        operations = torch.ops.pdrec_fast
        op = getattr(operations, self.loss.__name__).default
        leaves = [tensor.requires_grad_() for tensor in floats]
        arguments = (*leaves, items, weights.nan_to_num(), *own, "cosine", 5.0, None, False)
        torch.library.opcheck(op, arguments)
        with torch.no_grad():
            _, *gradients = op(*arguments)
        given = torch.tensor(0.5), *(tensor.detach() for tensor in floats), items, *gradients
        torch.library.opcheck(operations.states_gradient.default, given)
        torch.library.opcheck(operations.table_gradient.default, given)

    def test_compiles_without_a_graph_break(self):
        floats, rest = self.make_inputs(5, 7, 9, 17)
        leaves = [tensor.requires_grad_() for tensor in floats]
        compiled = torch.compile(self.loss, fullgraph=True, backend="aot_eager")
        found = torch.autograd.grad(compiled(*leaves, *rest, **COSINE), leaves)
        expected = torch.autograd.grad(self.loss(*leaves, *rest, **COSINE), leaves)
        assert all(map(torch.equal, found, expected))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"states": torch.zeros(3, 4)}, r"must share d, got shapes \(3, 4\) and \(7, 5\)"),
            ({"items": torch.full((3, 2), 7)}, "got 7 in row 0, column 0"),
            (
                {"table": torch.zeros(7, 5, device="meta")},
                "table must be on the device of states, cpu, got meta",
            ),
            ({"similarity": "l2"}, "similarity must be 'cosine' or 'dot', got 'l2'"),
            ({"temperature": math.inf}, "temperature must be finite, got inf"),
            ({"temperature": torch.tensor(1.0)}, "for similarity='cosine': a dot product carries"),
            (
                {"temperature": torch.ones(1), "similarity": "cosine"},
                r"floating tensor of shape \[\], got torch.float32 of shape \(1,\)",
            ),
            ({"impl": "tritn"}, "unknown impl='tritn'"),
        ],
    )
    def test_bad_arguments(self, impl, change, message):
        self.refuses(impl, change, message)

    def refuses(self, impl, change, message):
        arguments = {
            "states": torch.zeros(3, 5),
            "table": torch.zeros(7, 5),
            "items": torch.zeros(3, 2, dtype=torch.int64),
            "weights": self.weights,
            "impl": impl,
        }
        with pytest.raises(ValueError, match=message):
            self.loss(**(DOT | arguments | self.own_settings | change))
