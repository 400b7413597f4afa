"""``weighted_bce`` in Triton: loss and gradients, added atomically, by runs, and as sparse rows."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pdrec_fast.ops.candidates._checks import implementations
from pdrec_fast.ops.candidates.weighted_bce import weighted_bce
from tests.kernels.candidates._losses import COSINE, DOT, LossContract, random_candidates, run

pytest.importorskip("triton", reason="Triton is not installed")

# T, C, d, N, n_positives: more than a block of tokens, of candidates (and runs of an item longer
# than a block), of columns.
SIZES = [(1, 1, 3, 1, 0), (35, 2, 20, 70, 1), (3, 19, 7, 2, 4), (2, 5, 131, 4, 5)]


def make_inputs(
    n_tokens, n_candidates, width, n_items, n_positives=2, *, device, dtype=torch.float32
):
    shape = n_tokens, n_candidates
    floats, items, weights = random_candidates(*shape, width, n_items, device, dtype, shape)
    weights[:, 1::3] = 0
    weights[items < 0] = math.nan
    return floats, (items, weights, n_positives)


@pytest.fixture(params=["atomic", "deterministic", "sparse"])
def way(request):
    """How the table's gradient is summed."""
    return request.param


class TestContract(LossContract):
    loss, make_inputs = staticmethod(weighted_bce), staticmethod(make_inputs)

    @pytest.fixture(params=SIZES)
    def sizes(self, request):
        return request.param

    @pytest.mark.usefixtures("poisoned_memory")
    @pytest.mark.parametrize(("n_tokens", "n_candidates"), [(0, 3), (3, 0), (3, 2)])
    def test_nothing_to_sum(self, n_tokens, n_candidates, way, device):
        floats, (items, weights, _) = make_inputs(n_tokens, n_candidates, 5, 7, 0, device=device)
        rest = torch.full_like(items, -1), weights, n_candidates
        loss, (grad_states, grad_table) = self.run(floats, rest, COSINE, way=way)
        assert float(loss) == 0
        assert grad_states.shape == floats[0].shape
        assert grad_table.shape == floats[1].shape
        assert not grad_states.any()
        assert not grad_table.any()


def test_sparse_gradient_has_one_row_that_counts_for_each_item(device):
    floats, rest = make_inputs(7, 3, 9, 5, 2, device=device)
    table = floats[1].requires_grad_()
    loss = weighted_bce(floats[0], table, *rest, sparse_grad=True, impl="triton", **COSINE)
    (sparse,) = torch.autograd.grad(loss, table)
    rows, values = sparse._indices()[0], sparse._values()
    assert len(rows) == rest[0].numel()
    filled = rows[values.any(dim=1)]
    assert torch.equal(filled, filled.unique())
    assert set(filled.tolist()) <= set(rest[0].flatten().tolist())


def test_runs_give_the_same_bits_dense_and_sparse(device):
    floats, rest = make_inputs(7, 3, 9, 5, 2, device=device)
    sparse = run(weighted_bce, floats, rest, COSINE, way="sparse")[1][1]
    dense = run(weighted_bce, floats, rest, COSINE, way="deterministic")[1][1]
    assert torch.equal(dense, sparse)


@pytest.mark.parametrize("outside", [-2, 5, 2**40])
def test_an_item_outside_the_table_makes_the_loss_nan(outside, way, device):
    floats, (items, weights, _) = make_inputs(4, 3, 5, 5, 1, device=device)
    items, weights = items.clamp_min(0), torch.ones_like(weights)
    items[1, 2] = outside
    loss, (grad_states, grad_table) = run(
        weighted_bce, floats, (items, weights, 1), COSINE, way=way
    )
    assert loss.isnan()
    assert grad_states[1].isnan().all()
    assert grad_states[[0, 2, 3]].isfinite().all()
    assert grad_table.isfinite().all()


def test_candidates_of_weight_zero_are_not_read(way, device):
    floats, (items, weights, _) = make_inputs(4, 3, 5, 5, 1, device=device)
    floats[1][4] = math.nan
    weights = torch.where(items == 4, 0, weights)
    loss, gradients = run(weighted_bce, floats, (items, weights, 1), COSINE, way=way)
    assert loss.isfinite()
    assert all(tensor.isfinite().all() for tensor in gradients)


@pytest.mark.parametrize("magnitude", [1e2, 1e6])
def test_huge_logits(magnitude, device):
    floats = [
        torch.tensor([[magnitude]], device=device),
        torch.tensor([[1.0], [-1.0]], device=device),
    ]
    rest = torch.tensor([[0, 1, 0, 1]], device=device), torch.ones(1, 4, device=device), 2
    loss, (grad_states, grad_table) = run(weighted_bce, floats, rest, DOT)
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
        loss, (grad_states, _) = run(weighted_bce, [logits[at].view(1, 1), table], rest, DOT)
        # The GPU's exp is off by about |x| * 2**-24.
        truth = torch.nn.functional.softplus(wide[at], threshold=1e3)
        assert float(loss) == pytest.approx(float(truth), rel=1e-5)
        assert float(grad_states) == pytest.approx(-0.7 * float(wide[at].sigmoid()), rel=1e-5)


def test_backward_can_run_again_and_leaves_inputs_alone(device):
    floats, rest = make_inputs(5, 3, 9, 17, 2, device=device)
    before = [tensor.clone() for tensor in (*floats, *rest[:2])]
    leaves = [tensor.requires_grad_() for tensor in floats]
    loss = weighted_bce(*leaves, *rest, impl="triton", **COSINE)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    for one, other in zip(torch.autograd.grad(loss, leaves), first, strict=True):
        torch.testing.assert_close(one, other)
    for old, new in zip(before, (*floats, *rest[:2]), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0, equal_nan=True)


def test_autocast_keeps_a_float32_loss(device):
    (states, table), rest = make_inputs(5, 3, 9, 17, 2, device=device)
    exact = weighted_bce(states.bfloat16().float(), table, *rest, impl="triton", **COSINE)
    half = states.bfloat16().requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        loss = weighted_bce(half, table, *rest, impl="triton", **COSINE)
    assert torch.equal(loss, exact)
    loss.backward()
    assert half.grad.dtype == torch.bfloat16


def test_custom_op_contracts(device):
    floats, (items, weights, n_positives) = make_inputs(5, 3, 9, 17, 2, device=device)
    operations = torch.ops.pdrec_fast
    leaves = [tensor.requires_grad_() for tensor in floats]
    settings = (n_positives, "cosine", 5.0, None, False, "triton")
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
    floats, rest = make_inputs(5, 3, 9, 17, 2, device=device)
    leaves = [tensor.requires_grad_() for tensor in floats]
    compiled = torch.compile(weighted_bce, fullgraph=True, backend="aot_eager")
    loss = compiled(*leaves, *rest, impl="triton", **COSINE)
    expected = weighted_bce(*leaves, *rest, impl="triton", **COSINE)
    assert torch.equal(loss, expected)
    for found, other in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(found, other)


def test_triton_comes_first_on_a_gpu_and_last_on_a_cpu():
    with FakeTensorMode():
        for device, place in (("cuda", 0), ("cpu", -1)):
            tensor = torch.zeros(3, 5, device=device)
            assert list(implementations(tensor, tensor))[place] == "triton"
