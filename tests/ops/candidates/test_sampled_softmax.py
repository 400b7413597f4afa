"""``sampled_softmax``: the loss and its gradients by hand, against the reference, bit for bit."""

import math

import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.errors import BackendError
from pdrec_fast.ops.candidates.sampled_softmax import sampled_softmax
from pdrec_fast.ops.candidates.weighted_bce import weighted_bce

needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
DOT = {"similarity": "dot", "temperature": 1.0}
COSINE = {"similarity": "cosine", "temperature": 5.0}
# T, C, d, N: more candidates than a block, and items that a row repeats, its positive as well.
SIZES = [(1, 1, 3, 2), (1, 2, 1, 1), (37, 3, 64, 20), (5, 130, 61, 300), (33, 65, 37, 9)]


def make_inputs(n_rows, n_candidates, width, n_items, dtype=torch.float32):
    generator = torch.Generator().manual_seed(width)
    states = torch.randn(n_rows, width, dtype=torch.float64, generator=generator).to(dtype)
    table = torch.randn(n_items, width, dtype=torch.float64, generator=generator).to(dtype)
    items = torch.randint(-1, n_items, (n_rows, n_candidates), generator=generator)
    weights = torch.rand(n_rows, generator=generator)
    weights[1::3] = 0
    items[2::5, 1:] = -1
    items[3::5, 0] = -1
    weights[items[:, 0] < 0] = math.nan
    return [states, table], (items, weights)


def run(floats, rest, settings, *, impl, sparse_grad=False, grad_loss=1.0):
    """The loss and the gradients by ``states`` and ``table``."""
    leaves = [tensor.detach().requires_grad_() for tensor in floats]
    loss = sampled_softmax(*leaves, *rest, impl=impl, sparse_grad=sparse_grad, **settings)
    return loss.detach(), torch.autograd.grad(loss * grad_loss, leaves)


def relative_error(found, truth):
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_dot_by_hand(impl, sparse_grad):
    floats = [torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.0], [0.0, -1.0], [7.0, 7.0]])]
    rest = torch.tensor([[0, 1, -1, 1]]), torch.tensor([3.0])
    loss, (grad_states, grad_table) = run(floats, rest, DOT, impl=impl, sparse_grad=sparse_grad)
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
    loss, (grad_states, grad_table) = run(floats, rest, COSINE, impl=impl)
    slope = 1 / (1 + math.e)  # logits 4 and 3
    assert float(loss) == pytest.approx(math.log1p(math.exp(-1)), rel=1e-6)
    # 5 cos by the state: 5 (v / (|u||v|) - cos u / |u|^2); by the item likewise.
    grad_state = torch.tensor([[-4 * 3 / 25, 1 - 4 * 4 / 25], [1 - 3 * 3 / 25, -3 * 4 / 25]])
    grad_item = torch.tensor([[1.5 - 3 * 2 / 4, 2.0], [3 / 5, 0.8 - 4 * 5 / 25]])
    torch.testing.assert_close(grad_states, slope * (grad_state[1] - grad_state[0])[None])
    torch.testing.assert_close(grad_table, slope * torch.stack([grad_item[0], -grad_item[1]]))


@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_reference_gradients_match_finite_differences(settings):
    floats, rest = make_inputs(6, 5, 3, 6, torch.float64)
    for tensor in floats:
        tensor.requires_grad_()
    torch.autograd.gradcheck(
        lambda states, table: sampled_softmax(states, table, *rest, impl="reference", **settings),
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
        found = found.to_dense()
        assert relative_error(found, true) <= 1e-4 or not true.any()
        assert relative_error(found, true) <= 1.5 * relative_error(by_eager, true) + 5e-7


@needs_extension
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_sparse_gradient_has_the_rows_of_the_candidates(settings):
    floats, rest = make_inputs(33, 7, 37, 500)
    _, (_, dense) = run(floats, rest, settings, impl="cpp")
    _, (_, sparse) = run(floats, rest, settings, impl="cpp", sparse_grad=True)
    assert sparse.is_coalesced()
    assert torch.equal(sparse.indices()[0], rest[0][rest[0] >= 0].unique())
    assert torch.equal(sparse.to_dense(), dense)


def test_against_one_negative_it_is_the_logistic_loss_of_the_difference(impl):
    floats, _ = make_inputs(9, 2, 5, 7)
    items = torch.arange(18).view(9, 2) % 7
    loss, (grad_states, _) = run(floats, (items, torch.ones(9)), DOT, impl=impl)
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
        loss, (grad_states, grad_table) = run(floats, rest, DOT, impl=impl)
        assert float(loss) == pytest.approx(expected, rel=1e-6)
        torch.testing.assert_close(grad_states, torch.tensor([[2.0 * positive]]))
        slope = magnitude * positive
        torch.testing.assert_close(grad_table, torch.tensor([[slope], [-slope]]))


@needs_extension
def test_small_losses_keep_their_relative_precision():
    for margin in torch.linspace(-60, 80, 41):
        floats = [margin.view(1, 1), torch.tensor([[0.5], [-0.5]])]
        rest = torch.tensor([[0, 1, 1]]), torch.ones(1)
        loss, (grad_states, _) = run(floats, rest, DOT, impl="cpp")
        excess = math.log(2) - margin.double()
        truth = torch.logaddexp(excess, 0 * excess)
        assert float(loss) == pytest.approx(float(truth), rel=5e-6)
        assert float(grad_states) == pytest.approx(-float(excess.sigmoid()), rel=5e-6)


def test_norms_below_eps_count_as_constant(impl):
    floats = [torch.tensor([[0.0, 0.0], [3e-13, 4e-13]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])]
    rest = torch.tensor([[0, 1], [1, 0]]), torch.ones(2)
    _, expected = run([x.double() for x in floats], rest, COSINE, impl="reference")
    _, found = run(floats, rest, COSINE, impl=impl)
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_absent_negatives_are_as_if_they_were_left_out(impl, settings):
    floats, _ = make_inputs(3, 4, 5, 7)
    items, weights = torch.tensor([[1, -1, 3, -1], [0, 2, -1, -1], [5, -1, -1, 6]]), torch.ones(3)
    shorter = torch.tensor([[1, 3], [0, 2], [5, 6]])
    loss, gradients = run(floats, (items, weights), settings, impl=impl)
    other, others = run(floats, (shorter, weights), settings, impl=impl)
    torch.testing.assert_close(loss, other)
    for one, two in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, two)


@needs_extension
def test_states_of_weight_zero_and_their_items_are_not_read():
    floats, (items, _) = make_inputs(3, 4, 5, 7)
    items = torch.tensor([[1, 2, 3], [4, 4, 5], [1, 3, 2]])
    floats[0][1], floats[1][4:6] = math.nan, math.nan
    loss, gradients = run(floats, (items, torch.tensor([1.0, 0, 2])), COSINE, impl="cpp")
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
    assert run(floats, rest, settings, impl=impl)[0].isnan()


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("n_rows", [0, 3])
def test_nothing_to_sum(impl, n_rows, column, sparse_grad):
    floats, (items, _) = make_inputs(n_rows, 2, 5, 7)
    items = items.clamp_min(0).index_fill(1, torch.tensor(column), -1)
    rest = items, torch.ones(n_rows)
    loss, (grad_states, grad_table) = run(floats, rest, COSINE, impl=impl, sparse_grad=sparse_grad)
    assert float(loss) == 0
    assert grad_states.shape == floats[0].shape
    assert not grad_states.any()
    assert grad_table.shape == floats[1].shape
    assert not grad_table.to_dense().any()


@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_strided_inputs_and_int32_items(impl, settings):
    floats, (items, weights) = make_inputs(33, 7, 37, 50)
    loss, gradients = run(floats, (items, weights), settings, impl=impl)
    strided = [tensor.T.contiguous().T for tensor in (*floats, items.int())]
    strided.append(weights[:, None].repeat(1, 2)[:, 0])
    assert not any(tensor.is_contiguous() for tensor in strided)
    other, other_gradients = run(strided[:2], strided[2:], settings, impl=impl)
    torch.testing.assert_close(other, loss)
    for one, two in zip(other_gradients, gradients, strict=True):
        torch.testing.assert_close(one, two)


@needs_extension
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_bits_depend_neither_on_threads_nor_on_the_instruction_set(settings):
    floats, rest = make_inputs(701, 70, 61, 300)
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


def test_no_gradient_flows_to_the_weights(impl):
    floats, (items, weights) = make_inputs(5, 7, 9, 17)
    weights.requires_grad_()
    floats[0].requires_grad_()
    sampled_softmax(*floats, items, weights, impl=impl, **DOT).backward()
    assert floats[0].grad.any()
    assert weights.grad is None


@needs_extension
def test_backward_can_run_again_and_leaves_inputs_alone():
    floats, rest = make_inputs(5, 7, 9, 17)
    before = [tensor.clone() for tensor in (*floats, *rest)]
    leaves = [tensor.requires_grad_() for tensor in floats]
    loss = sampled_softmax(*leaves, *rest, impl="cpp", **COSINE)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(loss, leaves), first))
    for old, new in zip(before, (*floats, *rest), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0, equal_nan=True)


@needs_extension
def test_float64_runs_in_the_reference():
    floats, rest = make_inputs(5, 7, 9, 17, torch.float64)
    assert sampled_softmax(*floats, *rest, **COSINE).dtype == torch.float64
    with pytest.raises(BackendError, match=r"states is torch.float64 on cpu.*reference"):
        sampled_softmax(*floats, *rest, impl="cpp", **COSINE)


@needs_extension
def test_autocast_and_half_precision_states_keep_a_float32_loss():
    (states, table), rest = make_inputs(5, 7, 9, 17)
    exact = sampled_softmax(states.bfloat16().float(), table, *rest, impl="cpp", **COSINE)
    half = states.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = sampled_softmax(half, table, *rest, impl="cpp", **COSINE)
    assert torch.equal(loss, exact)
    loss.backward()
    assert half.grad.dtype == torch.bfloat16


@needs_extension
def test_custom_op_contracts():
    floats, (items, weights) = make_inputs(5, 7, 9, 17)
    leaves = [tensor.requires_grad_() for tensor in floats]
    arguments = (*leaves, items, weights.nan_to_num(), "cosine", 5.0, False)
    torch.library.opcheck(torch.ops.pdrec_fast.sampled_softmax.default, arguments)


def test_compiles_without_a_graph_break():
    floats, rest = make_inputs(5, 7, 9, 17)
    leaves = [tensor.requires_grad_() for tensor in floats]
    compiled = torch.compile(sampled_softmax, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*leaves, *rest, **COSINE), leaves)
    expected = torch.autograd.grad(sampled_softmax(*leaves, *rest, **COSINE), leaves)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": torch.zeros(3, 4)}, r"must share d, got shapes \(3, 4\) and \(7, 5\)"),
        ({"items": torch.full((3, 2), 7)}, "got 7 in row 0, column 0"),
        ({"items": torch.zeros(3, 0, dtype=torch.int64)}, "a first column, the positives"),
        (
            {"table": torch.zeros(7, 5, device="meta")},
            "table must be on the device of states, cpu, got meta",
        ),
        ({"weights": torch.zeros(3, 2)}, r"weights must have shape \[3\], got \(3, 2\)"),
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
        "weights": torch.zeros(3),
        "impl": impl,
    }
    with pytest.raises(ValueError, match=message):
        sampled_softmax(**(DOT | arguments | change))
