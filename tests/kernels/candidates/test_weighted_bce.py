"""``weighted_bce`` in Triton: loss and gradients, added atomically, by runs, and as sparse rows."""

import math
from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pdrec_fast.errors import BackendError
from pdrec_fast.ops.candidates._checks import implementations
from pdrec_fast.ops.candidates.weighted_bce import weighted_bce

pytest.importorskip("triton", reason="Triton is not installed")

DOT = {"similarity": "dot", "temperature": 1.0}
COSINE = {"similarity": "cosine", "temperature": 5.0}
# T, C, d, N, n_positives: more than a block of tokens, of candidates (and runs of an item longer
# than a block), of columns.
SIZES = [(1, 1, 3, 1, 0), (35, 2, 20, 70, 1), (3, 19, 7, 2, 4), (2, 5, 131, 4, 5)]


@pytest.fixture
def poisoned_memory(monkeypatch):
    empty, empty_like = torch.empty, torch.empty_like

    def poison(tensor):
        return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", lambda *args, **named: poison(empty(*args, **named)))
    monkeypatch.setattr(torch, "empty_like", lambda *args: poison(empty_like(*args)))


@pytest.fixture(params=["atomic", "deterministic", "sparse"])
def way(request):
    """How the table's gradient is summed."""
    return request.param


@contextmanager
def deterministic(wanted):
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    yield
    torch.use_deterministic_algorithms(before)


def make_inputs(n_tokens, n_candidates, width, n_items, n_positives, device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(width)
    states = torch.randn(n_tokens, width, generator=generator).to(device, dtype)
    table = torch.randn(n_items, width, generator=generator).to(device, dtype)
    items = torch.randint(-1, n_items, (n_tokens, n_candidates), generator=generator).to(device)
    weights = torch.rand(n_tokens, n_candidates, generator=generator).to(device)
    weights[:, 1::3] = 0
    weights[items < 0] = math.nan
    return [states, table], (items, weights, n_positives)


def run(floats, rest, settings, *, impl="triton", way="atomic"):
    """The loss and the gradients of -0.7 times it by ``states`` and ``table``, both dense."""
    leaves = [tensor.detach().requires_grad_() for tensor in floats]
    loss = weighted_bce(*leaves, *rest, impl=impl, sparse_grad=way == "sparse", **settings)
    with deterministic(way == "deterministic"):
        grad_states, grad_table = torch.autograd.grad(loss * -0.7, leaves)
    assert grad_table.is_sparse == (way == "sparse")
    return loss.detach(), (grad_states, grad_table.to_dense())


def relative_error(found, truth):
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-30))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_error_is_at_most_that_of_plain_torch(sizes, settings, way, device):
    floats, rest = make_inputs(*sizes, device)
    wide = [tensor.double() for tensor in floats]
    truth, true_gradients = run(wide, rest, settings, impl="reference")
    eager, eager_gradients = run(floats, rest, settings, impl="reference")
    loss, gradients = run(floats, rest, settings, way=way)
    assert loss.dtype == torch.float32
    slack = 6e-7 if device.type == "cuda" else 2e-7  # a GPU's exp is off by units itself
    assert relative_error(loss, truth) <= 1.5 * relative_error(eager, truth) + slack
    for found, by_eager, true in zip(gradients, eager_gradients, true_gradients, strict=True):
        assert found.dtype == torch.float32
        assert relative_error(found, true) <= 1.5 * relative_error(by_eager, true) + slack + 3e-7


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_bfloat16_rounds_only_the_results(settings, way, device):
    floats, rest = make_inputs(9, 4, 20, 5, 1, device, torch.bfloat16)
    wide = [tensor.double() for tensor in floats]
    truth, true_gradients = run(wide, rest, settings, impl="reference")
    loss, gradients = run(floats, rest, settings, way=way)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=0)
    for found, true in zip(gradients, true_gradients, strict=True):
        assert found.dtype == torch.bfloat16
        # A unit in the last of 8 places (the interpreter cuts where a GPU rounds), and float32's
        # own error where terms cancel.
        torch.testing.assert_close(found.double(), true, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_strided_inputs_and_int32_items(settings, way, device):
    floats, (items, weights, n_positives) = make_inputs(7, 5, 9, 11, 2, device)
    loss, gradients = run(floats, (items, weights, n_positives), settings, way=way)
    strided = [tensor.T.contiguous().T for tensor in (*floats, items.int(), weights)]
    assert not any(tensor.is_contiguous() for tensor in strided)
    other, others = run(strided[:2], (*strided[2:], n_positives), settings, way=way)
    assert torch.equal(other, loss)
    for one, two in zip(others, gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_sparse_gradient_has_one_row_that_counts_for_each_item(device):
    floats, rest = make_inputs(7, 3, 9, 5, 2, device)
    table = floats[1].requires_grad_()
    loss = weighted_bce(floats[0], table, *rest, sparse_grad=True, impl="triton", **COSINE)
    (sparse,) = torch.autograd.grad(loss, table)
    rows, values = sparse._indices()[0], sparse._values()
    assert len(rows) == rest[0].numel()
    filled = rows[values.any(dim=1)]
    assert torch.equal(filled, filled.unique())
    assert set(filled.tolist()) <= set(rest[0].flatten().tolist())


def test_runs_give_the_same_bits_dense_and_sparse(device):
    floats, rest = make_inputs(7, 3, 9, 5, 2, device)
    sparse = run(floats, rest, COSINE, way="sparse")[1][1]
    dense = run(floats, rest, COSINE, way="deterministic")[1][1]
    assert torch.equal(dense, sparse)


@pytest.mark.parametrize("outside", [-2, 5, 2**40])
def test_an_item_outside_the_table_makes_the_loss_nan(outside, way, device):
    floats, (items, weights, _) = make_inputs(4, 3, 5, 5, 1, device)
    items, weights = items.clamp_min(0), torch.ones_like(weights)
    items[1, 2] = outside
    loss, (grad_states, grad_table) = run(floats, (items, weights, 1), COSINE, way=way)
    assert loss.isnan()
    assert grad_states[1].isnan().all()
    assert grad_states[[0, 2, 3]].isfinite().all()
    assert grad_table.isfinite().all()


def test_candidates_of_weight_zero_are_not_read(way, device):
    floats, (items, weights, _) = make_inputs(4, 3, 5, 5, 1, device)
    floats[1][4] = math.nan
    weights = torch.where(items == 4, 0, weights)
    loss, gradients = run(floats, (items, weights, 1), COSINE, way=way)
    assert loss.isfinite()
    assert all(tensor.isfinite().all() for tensor in gradients)


@pytest.mark.parametrize("magnitude", [1e2, 1e6])
def test_huge_logits(magnitude, device):
    floats = [
        torch.tensor([[magnitude]], device=device),
        torch.tensor([[1.0], [-1.0]], device=device),
    ]
    rest = torch.tensor([[0, 1, 0, 1]], device=device), torch.ones(1, 4, device=device), 2
    loss, (grad_states, grad_table) = run(floats, rest, DOT)
    assert float(loss) == pytest.approx(2 * magnitude)
    assert grad_states.tolist() == [[pytest.approx(-0.7 * 2)]]
    assert grad_table[:, 0].tolist() == pytest.approx([-0.7 * magnitude, 0.7 * magnitude])


def test_small_losses_keep_their_relative_precision(device):
    logits = torch.linspace(-80, 80, 41, device=device)
    table = torch.ones(1, 1, device=device)
    items = torch.zeros(41, 1, dtype=torch.int64, device=device)
    wide = logits.double()
    for at in range(0, 41, 4):
        rest = items[:1], torch.ones(1, 1, device=device), 0
        loss, (grad_states, _) = run([logits[at].view(1, 1), table], rest, DOT)
        # The GPU's exp is off by about |x| * 2**-24.
        truth = torch.nn.functional.softplus(wide[at], threshold=1e3)
        assert float(loss) == pytest.approx(float(truth), rel=1e-5)
        assert float(grad_states) == pytest.approx(-0.7 * float(wide[at].sigmoid()), rel=1e-5)


def test_norms_below_eps_count_as_constant(way, device):
    floats = [
        torch.tensor([[0.0, 0.0], [3e-13, 4e-13]], device=device),
        torch.tensor([[0.0, 0.0], [1.0, 1.0]], device=device),
    ]
    items = torch.tensor([[0, 1], [0, 1]], device=device)
    rest = items, torch.ones(2, 2, device=device), 1
    _, expected = run([x.double() for x in floats], rest, COSINE, impl="reference")
    _, found = run(floats, rest, COSINE, way=way)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("n_tokens", "n_candidates"), [(0, 3), (3, 0), (3, 2)])
def test_nothing_to_sum(n_tokens, n_candidates, way, device):
    floats, (items, weights, _) = make_inputs(n_tokens, n_candidates, 5, 7, 0, device)
    rest = torch.full_like(items, -1), weights, n_candidates
    loss, (grad_states, grad_table) = run(floats, rest, COSINE, way=way)
    assert float(loss) == 0
    assert grad_states.shape == floats[0].shape
    assert grad_table.shape == floats[1].shape
    assert not grad_states.any()
    assert not grad_table.any()


def test_backward_can_run_again_and_leaves_inputs_alone(device):
    floats, rest = make_inputs(5, 3, 9, 17, 2, device)
    before = [tensor.clone() for tensor in (*floats, *rest[:2])]
    leaves = [tensor.requires_grad_() for tensor in floats]
    loss = weighted_bce(*leaves, *rest, impl="triton", **COSINE)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    for one, other in zip(torch.autograd.grad(loss, leaves), first, strict=True):
        torch.testing.assert_close(one, other)
    for old, new in zip(before, (*floats, *rest[:2]), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0, equal_nan=True)


def test_autocast_keeps_a_float32_loss(device):
    (states, table), rest = make_inputs(5, 3, 9, 17, 2, device)
    exact = weighted_bce(states.bfloat16().float(), table, *rest, impl="triton", **COSINE)
    half = states.bfloat16().requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        loss = weighted_bce(half, table, *rest, impl="triton", **COSINE)
    assert torch.equal(loss, exact)
    loss.backward()
    assert half.grad.dtype == torch.bfloat16


def test_custom_op_contracts(device):
    floats, (items, weights, n_positives) = make_inputs(5, 3, 9, 17, 2, device)
    operations = torch.ops.pdrec_fast
    leaves = [tensor.requires_grad_() for tensor in floats]
    settings = (n_positives, "cosine", 5.0, False, "triton")
    arguments = (*leaves, items, weights.nan_to_num(), *settings)
    torch.library.opcheck(operations.weighted_bce.default, arguments)
    with torch.no_grad():
        _, *gradients = operations.weighted_bce(*arguments)
    grad_loss = torch.tensor(0.5, device=device)
    given = (grad_loss, *(tensor.detach() for tensor in floats), items, *gradients)
    torch.library.opcheck(operations.states_gradient.default, (*given, "triton"))
    torch.library.opcheck(operations.table_gradient.default, (*given, "triton"))
    torch.library.opcheck(operations.table_gradient_rows.default, given)


def test_compiles_without_a_graph_break(device):
    floats, rest = make_inputs(5, 3, 9, 17, 2, device)
    leaves = [tensor.requires_grad_() for tensor in floats]
    compiled = torch.compile(weighted_bce, fullgraph=True, backend="aot_eager")
    loss = compiled(*leaves, *rest, impl="triton", **COSINE)
    expected = weighted_bce(*leaves, *rest, impl="triton", **COSINE)
    assert torch.equal(loss, expected)
    for found, other in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(found, other)


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_the_host_never_waits(sparse_grad, device):
    if device.type != "cuda":
        pytest.skip("only a GPU is waited for")
    floats, rest = make_inputs(5, 3, 9, 17, 2, device)
    leaves = [tensor.requires_grad_() for tensor in floats]
    settings = {**COSINE, "sparse_grad": sparse_grad, "impl": "triton"}
    torch.autograd.grad(weighted_bce(*leaves, *rest, **settings), leaves)
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad(weighted_bce(*leaves, *rest, **settings), leaves)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_triton_comes_first_on_a_gpu_and_last_on_a_cpu():
    with FakeTensorMode():
        for device, place in (("cuda", 0), ("cpu", -1)):
            tensor = torch.zeros(3, 5, device=device)
            assert list(implementations(tensor, tensor))[place] == "triton"


def test_float64_is_refused(device):
    floats, rest = make_inputs(5, 3, 9, 17, 2, device, torch.float64)
    with pytest.raises(BackendError, match=r"'triton'.*states is torch.float64.*reference"):
        weighted_bce(*floats, *rest, impl="triton", **COSINE)
