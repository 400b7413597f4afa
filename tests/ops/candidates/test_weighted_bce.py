"""``weighted_bce``: the loss and its gradients by hand, against the reference, and bit for bit."""

import math

import numpy as np
import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.errors import BackendError
from pdrec_fast.ops.candidates.weighted_bce import weighted_bce

needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
DOT = {"similarity": "dot", "temperature": 1.0}
COSINE = {"similarity": "cosine", "temperature": 5.0}
# T, C, d, N, n_positives; more candidates than items repeat them within a row.
SIZES = [
    (1, 1, 1, 1, 0),
    (1, 1, 3, 2, 1),
    (37, 3, 64, 20, 1),
    (5, 130, 61, 300, 40),
    (33, 7, 37, 3, 2),
    (2, 5, 301, 11, 5),
]


def make_inputs(n_rows, n_candidates, width, n_items, n_positives, dtype=torch.float32):
    generator = torch.Generator().manual_seed(width)
    states = torch.randn(n_rows, width, dtype=torch.float64, generator=generator).to(dtype)
    table = torch.randn(n_items, width, dtype=torch.float64, generator=generator).to(dtype)
    items = torch.randint(-1, n_items, (n_rows, n_candidates), generator=generator)
    weights = torch.rand(n_rows, n_candidates, generator=generator)
    weights[:, ::3] = 0
    weights[items < 0] = math.nan
    return [states, table], (items, weights, n_positives)


def run(floats, rest, settings, *, impl, sparse_grad=False, grad_loss=1.0):
    """The loss and the gradients by ``states`` and ``table``."""
    leaves = [tensor.detach().requires_grad_() for tensor in floats]
    loss = weighted_bce(*leaves, *rest, impl=impl, sparse_grad=sparse_grad, **settings)
    return loss.detach(), torch.autograd.grad(loss * grad_loss, leaves)


def relative_error(found, truth):
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_dot_by_hand(impl, sparse_grad):
    floats = [torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.0], [0.0, -1.0], [7.0, 7.0]])]
    rest = torch.tensor([[0, 1, 1, -1]]), torch.tensor([[2.0, 1.0, 3.0, 9.0]]), 2
    loss, (grad_states, grad_table) = run(floats, rest, DOT, impl=impl, sparse_grad=sparse_grad)
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
        floats, rest, {"similarity": "cosine", "temperature": 5.0}, impl=impl
    )
    slope = 1 / (1 + math.exp(-3))
    assert float(loss) == pytest.approx(math.log1p(math.exp(3)), rel=1e-6)
    # 5 cos = 3: by the state 5 (v / (|u||v|) - 0.6 u / |u|^2), by the item likewise.
    grad_state = torch.tensor([[1.0 - 3 * 3 / 25, -3 * 4 / 25]])
    grad_item = torch.tensor([[1.5 - 3 * 2 / 4, 2.0]])
    torch.testing.assert_close(grad_states, slope * grad_state)
    torch.testing.assert_close(grad_table, slope * grad_item)


@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_reference_gradients_match_finite_differences(settings):
    floats, rest = make_inputs(4, 5, 3, 6, 2, torch.float64)
    for tensor in floats:
        tensor.requires_grad_()
    torch.autograd.gradcheck(
        lambda states, table: weighted_bce(states, table, *rest, impl="reference", **settings),
        floats,
    )


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("settings", [DOT, COSINE])
@pytest.mark.parametrize("sparse_grad", [False, True])
def test_error_is_at_most_that_of_plain_torch(impl, sizes, settings, sparse_grad):
    floats, rest = make_inputs(*sizes)
    wide = [tensor.double() for tensor in floats]
    truth, true_gradients = run(wide, rest, settings, impl="reference", grad_loss=-0.7)
    eager, eager_gradients = run(floats, rest, settings, impl="reference", grad_loss=-0.7)
    loss, gradients = run(
        floats, rest, settings, impl=impl, sparse_grad=sparse_grad, grad_loss=-0.7
    )
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), truth, rtol=1e-5, atol=0)
    assert relative_error(loss, truth) <= 1.5 * relative_error(eager, truth) + 2e-7
    for found, by_eager, true in zip(gradients, eager_gradients, true_gradients, strict=True):
        found = found.to_dense() if found.is_sparse else found
        assert relative_error(found, true) <= 1e-4 or not true.any()
        assert relative_error(found, true) <= 1.5 * relative_error(by_eager, true) + 5e-7


@needs_extension
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_sparse_gradient_has_the_rows_of_the_candidates(settings):
    floats, (items, weights, n_positives) = make_inputs(33, 7, 37, 500, 2)
    _, (_, dense) = run(floats, (items, weights, n_positives), settings, impl="cpp")
    _, (_, sparse) = run(
        floats, (items, weights, n_positives), settings, impl="cpp", sparse_grad=True
    )
    assert sparse.layout == torch.sparse_coo
    assert sparse.is_coalesced()
    assert torch.equal(sparse.indices()[0], items[items >= 0].unique())
    assert torch.equal(sparse.to_dense(), dense)


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
    loss, (grad_states, grad_table) = run(floats, rest, DOT, impl=impl)
    assert float(loss) == pytest.approx(2 * magnitude)
    torch.testing.assert_close(grad_states, torch.tensor([[2.0]]))
    torch.testing.assert_close(grad_table, torch.tensor([[magnitude], [-magnitude]]))


def test_small_losses_keep_their_relative_precision(impl):
    logits = torch.linspace(-80, 80, 1601)[:, None]
    table = torch.ones(1, 1)
    items = torch.zeros(1, 1, dtype=torch.int64)
    for logit in logits[::40]:
        loss, (grad_states, _) = run(
            [logit[None], table], (items, torch.ones(1, 1), 0), DOT, impl=impl
        )
        wide = logit.double()
        assert float(loss) == pytest.approx(float(torch.logaddexp(wide, 0 * wide)), rel=5e-7)
        assert float(grad_states) == pytest.approx(float(torch.sigmoid(wide)), rel=5e-7)


def test_norms_below_eps_count_as_constant(impl):
    floats = [torch.tensor([[0.0, 0.0], [3e-13, 4e-13]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])]
    rest = torch.tensor([[0, 1], [0, 1]]), torch.ones(2, 2), 1
    _, expected = run([x.double() for x in floats], rest, COSINE, impl="reference")
    _, found = run(floats, rest, COSINE, impl=impl)
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@needs_extension
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_weights_of_zero_and_absent_items_are_alike(settings):
    floats, (items, weights, n_positives) = make_inputs(9, 80, 5, 30, 3)
    removed = items.masked_fill(weights == 0, -1)
    loss, gradients = run(floats, (items, weights, n_positives), settings, impl="cpp")
    other, other_gradients = run(floats, (removed, weights, n_positives), settings, impl="cpp")
    assert torch.equal(loss, other)
    assert all(map(torch.equal, gradients, other_gradients))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize(("n_rows", "n_candidates"), [(0, 3), (3, 0), (3, 2)])
def test_nothing_to_sum(impl, n_rows, n_candidates, sparse_grad):
    floats, (items, weights, _) = make_inputs(n_rows, n_candidates, 5, 7, 0)
    rest = torch.full_like(items, -1), weights, n_candidates
    loss, (grad_states, grad_table) = run(floats, rest, COSINE, impl=impl, sparse_grad=sparse_grad)
    assert float(loss) == 0
    assert grad_states.shape == floats[0].shape
    assert not grad_states.any()
    assert grad_table.shape == floats[1].shape
    assert not grad_table.to_dense().any()


@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_strided_inputs_and_int32_items(impl, settings):
    floats, (items, weights, n_positives) = make_inputs(33, 7, 37, 50, 2)
    loss, gradients = run(floats, (items, weights, n_positives), settings, impl=impl)
    strided = [tensor.T.contiguous().T for tensor in (*floats, items.int(), weights)]
    assert not any(tensor.is_contiguous() for tensor in strided)
    other, other_gradients = run(strided[:2], (*strided[2:], n_positives), settings, impl=impl)
    torch.testing.assert_close(other, loss)
    for one, two in zip(other_gradients, gradients, strict=True):
        torch.testing.assert_close(one, two)


@needs_extension
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_bits_depend_neither_on_threads_nor_on_the_instruction_set(settings):
    floats, rest = make_inputs(701, 70, 61, 300, 9)
    before, threads = build_info()["isa"], torch.get_num_threads()
    results = []
    for isa in build_info()["isas_runnable"]:
        extension.set_isa(isa)
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            loss, gradients = run(floats, rest, settings, impl="cpp")
            results.append((loss, *gradients))
    torch.set_num_threads(threads)
    extension.set_isa(before)
    for result in results:
        assert all(map(torch.equal, result, results[0]))


@needs_extension
@pytest.mark.parametrize("wanted", [0, 1])
def test_only_the_gradients_asked_for_are_computed(wanted, monkeypatch):
    name = ("table_gradient", "states_gradient")[wanted]
    monkeypatch.setattr(extension, name, None)
    floats, rest = make_inputs(5, 7, 9, 17, 2)
    floats[wanted].requires_grad_()
    weighted_bce(*floats, *rest, impl="cpp", **COSINE).backward()
    assert floats[wanted].grad.any()


def test_no_gradient_flows_to_the_weights(impl):
    floats, (items, weights, n_positives) = make_inputs(5, 7, 9, 17, 2)
    weights.requires_grad_()
    floats[0].requires_grad_()
    weighted_bce(*floats, items, weights, n_positives, impl=impl, **DOT).backward()
    assert weights.grad is None


@needs_extension
def test_backward_can_run_again_and_leaves_inputs_alone():
    floats, rest = make_inputs(5, 7, 9, 17, 2)
    before = [tensor.clone() for tensor in (*floats, *rest[:2])]
    leaves = [tensor.requires_grad_() for tensor in floats]
    loss = weighted_bce(*leaves, *rest, impl="cpp", **COSINE)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(loss, leaves), first))
    for old, new in zip(before, (*floats, *rest[:2]), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0, equal_nan=True)


@needs_extension
def test_second_derivatives_are_refused():
    floats, rest = make_inputs(5, 7, 9, 17, 2)
    leaves = [tensor.requires_grad_() for tensor in floats]
    loss = weighted_bce(*leaves, *rest, impl="cpp", **COSINE)
    gradients = torch.autograd.grad(loss, leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradients[0].sum().backward()


@needs_extension
def test_float64_runs_in_the_reference():
    floats, rest = make_inputs(5, 7, 9, 17, 2, torch.float64)
    found = weighted_bce(*floats, *rest, **COSINE)
    assert found.dtype == torch.float64
    with pytest.raises(BackendError, match=r"states is torch.float64 on cpu.*reference"):
        weighted_bce(*floats, *rest, impl="cpp", **COSINE)


@needs_extension
def test_autocast_and_half_precision_states_keep_a_float32_loss():
    (states, table), rest = make_inputs(5, 7, 9, 17, 2)
    exact = weighted_bce(states.bfloat16().float(), table, *rest, impl="cpp", **COSINE)
    half = states.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = weighted_bce(half, table, *rest, impl="cpp", **COSINE)
    assert torch.equal(loss, exact)
    loss.backward()
    assert half.grad.dtype == torch.bfloat16


@needs_extension
def test_custom_op_contracts():
    floats, (items, weights, n_positives) = make_inputs(5, 7, 9, 17, 2)
    weights = weights.nan_to_num()
    operations = torch.ops.pdrec_fast
    leaves = [tensor.requires_grad_() for tensor in floats]
    arguments = (*leaves, items, weights, n_positives, "cosine", 5.0, False)
    torch.library.opcheck(operations.weighted_bce.default, arguments)
    with torch.no_grad():
        _, *gradients = operations.weighted_bce(*arguments)
    given = (torch.tensor(0.5), *(tensor.detach() for tensor in floats), items, *gradients)
    torch.library.opcheck(operations.states_gradient.default, given)
    torch.library.opcheck(operations.table_gradient.default, given)


def test_compiles_without_a_graph_break():
    floats, rest = make_inputs(5, 7, 9, 17, 2)
    leaves = [tensor.requires_grad_() for tensor in floats]
    compiled = torch.compile(weighted_bce, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*leaves, *rest, **COSINE), leaves)
    expected = torch.autograd.grad(weighted_bce(*leaves, *rest, **COSINE), leaves)
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
        ({"weights": torch.zeros(3)}, r"weights must have the shape of items, \(3, 2\)"),
        ({"n_positives": 3}, "n_positives must lie in 0 .. 2, got 3"),
        ({"n_positives": -1}, "n_positives must lie in 0 .. 2, got -1"),
        ({"similarity": "l2"}, "similarity must be 'cosine' or 'dot', got 'l2'"),
        ({"temperature": math.inf}, "temperature must be finite, got inf"),
        ({"impl": "tritn"}, "unknown impl='tritn'"),
    ],
)
def test_bad_arguments(impl, change, message):
    arguments = {
        "states": torch.zeros(3, 5),
        "table": torch.zeros(7, 5),
        "items": torch.zeros(3, 2, dtype=torch.int64),
        "weights": torch.zeros(3, 2),
        "n_positives": 1,
        "impl": impl,
    }
    with pytest.raises(ValueError, match=message):
        weighted_bce(**(DOT | arguments | change))
