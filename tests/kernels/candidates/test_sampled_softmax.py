"""``sampled_softmax`` in Triton; for how the table's gradient is summed see
test_triton_weighted_bce.py."""

import math

import pytest
import torch

from pdrec_fast.errors import BackendError
from pdrec_fast.ops.candidates.sampled_softmax import sampled_softmax

pytest.importorskip("triton", reason="Triton is not installed")

DOT = {"similarity": "dot", "temperature": 1.0}
COSINE = {"similarity": "cosine", "temperature": 5.0}
# T, C, d, N: more than a block of tokens, of candidates and of columns.
SIZES = [(1, 1, 3, 1), (70, 2, 20, 70), (4, 35, 7, 90), (3, 17, 131, 4)]


@pytest.fixture
def poisoned_memory(monkeypatch):
    empty, empty_like = torch.empty, torch.empty_like

    def poison(tensor):
        return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", lambda *args, **named: poison(empty(*args, **named)))
    monkeypatch.setattr(torch, "empty_like", lambda *args: poison(empty_like(*args)))


def make_inputs(n_tokens, n_candidates, width, n_items, device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(width)
    states = torch.randn(n_tokens, width, generator=generator).to(device, dtype)
    table = torch.randn(n_items, width, generator=generator).to(device, dtype)
    items = torch.randint(-1, n_items, (n_tokens, n_candidates), generator=generator)
    weights = torch.rand(n_tokens, generator=generator)
    weights[1::4] = 0
    items[2::5, 1:] = -1
    weights[items[:, 0] < 0] = math.nan
    return [states, table], (items.to(device), weights.to(device))


def run(floats, rest, settings, *, impl="triton", sparse_grad=False):
    """The loss and the gradients of -0.7 times it by ``states`` and ``table``, both dense."""
    leaves = [tensor.detach().requires_grad_() for tensor in floats]
    loss = sampled_softmax(*leaves, *rest, impl=impl, sparse_grad=sparse_grad, **settings)
    grad_states, grad_table = torch.autograd.grad(loss * -0.7, leaves)
    assert grad_table.is_sparse == sparse_grad
    return loss.detach(), (grad_states, grad_table.to_dense())


def relative_error(found, truth):
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-30))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_error_is_at_most_that_of_plain_torch(sizes, settings, sparse_grad, device):
    floats, rest = make_inputs(*sizes, device)
    wide = [tensor.double() for tensor in floats]
    truth, true_gradients = run(wide, rest, settings, impl="reference")
    eager, eager_gradients = run(floats, rest, settings, impl="reference")
    loss, gradients = run(floats, rest, settings, sparse_grad=sparse_grad)
    assert loss.dtype == torch.float32
    slack = 6e-7 if device.type == "cuda" else 2e-7  # a GPU's exp is off by units itself
    assert relative_error(loss, truth) <= 1.5 * relative_error(eager, truth) + slack
    for found, by_eager, true in zip(gradients, eager_gradients, true_gradients, strict=True):
        assert found.dtype == torch.float32
        assert relative_error(found, true) <= 1.5 * relative_error(by_eager, true) + slack + 3e-7


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_bfloat16_rounds_only_the_results(settings, device):
    floats, rest = make_inputs(9, 4, 20, 5, device, torch.bfloat16)
    wide = [tensor.double() for tensor in floats]
    truth, true_gradients = run(wide, rest, settings, impl="reference")
    loss, gradients = run(floats, rest, settings)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=0)
    for found, true in zip(gradients, true_gradients, strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), true, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("settings", [DOT, COSINE])
def test_strided_inputs_and_int32_items(settings, device):
    floats, (items, weights) = make_inputs(7, 5, 9, 11, device)
    loss, gradients = run(floats, (items, weights), settings)
    strided = [tensor.T.contiguous().T for tensor in (*floats, items.int())]
    strided.append(weights[:, None].repeat(1, 2)[:, 0])
    assert not any(tensor.is_contiguous() for tensor in strided)
    other, others = run(strided[:2], strided[2:], settings)
    assert torch.equal(other, loss)
    for one, two in zip(others, gradients, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("outside", [-2, 5, 2**40])
@pytest.mark.parametrize("column", [0, 2])
def test_an_item_outside_the_table_makes_the_loss_nan(outside, column, device):
    floats, (items, _) = make_inputs(4, 3, 5, 5, device)
    items, weights = items.clamp_min(0), torch.ones(4, device=device)
    items[1, column] = outside
    loss, (grad_states, _) = run(floats, (items, weights), COSINE)
    assert loss.isnan()
    assert grad_states[1].isnan().all()
    assert grad_states[[0, 2, 3]].isfinite().all()


def test_tokens_of_weight_zero_are_not_read(device):
    floats, _ = make_inputs(3, 3, 5, 7, device)
    items = torch.tensor([[1, 2, 3], [4, 4, 5], [1, 3, 2]], device=device)
    floats[1][4:6] = math.nan
    weights = torch.tensor([1.0, 0, 2], device=device)
    loss, gradients = run(floats, (items, weights), COSINE)
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
        loss, (grad_states, grad_table) = run(floats, (items, torch.ones(1, device=device)), DOT)
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
        loss, (grad_states, _) = run(floats, rest, DOT)
        excess = torch.tensor(math.log(2) - margin, dtype=torch.float64)
        truth = torch.nn.functional.softplus(excess, threshold=1e3)
        assert float(loss) == pytest.approx(float(truth), rel=2e-5)
        assert float(grad_states) == pytest.approx(0.7 * float(excess.sigmoid()), rel=2e-5)


def test_norms_below_eps_count_as_constant(device):
    floats = [
        torch.tensor([[0.0, 0.0], [3e-13, 4e-13]], device=device),
        torch.tensor([[0.0, 0.0], [1.0, 1.0]], device=device),
    ]
    rest = torch.tensor([[0, 1], [1, 0]], device=device), torch.ones(2, device=device)
    _, expected = run([x.double() for x in floats], rest, COSINE, impl="reference")
    _, found = run(floats, rest, COSINE)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("n_tokens", [0, 3])
def test_nothing_to_sum(n_tokens, column, sparse_grad, device):
    floats, (items, _) = make_inputs(n_tokens, 2, 5, 7, device)
    items = items.clamp_min(0).index_fill(1, torch.tensor(column, device=device), -1)
    rest = items, torch.ones(n_tokens, device=device)
    loss, (grad_states, grad_table) = run(floats, rest, COSINE, sparse_grad=sparse_grad)
    assert float(loss) == 0
    assert not grad_states.any()
    assert not grad_table.any()


def test_custom_op_contracts(device):
    floats, (items, weights) = make_inputs(5, 3, 9, 17, device)
    leaves = [tensor.requires_grad_() for tensor in floats]
    arguments = (*leaves, items, weights.nan_to_num(), "cosine", 5.0, False, "triton")
    torch.library.opcheck(torch.ops.pdrec_fast.sampled_softmax.default, arguments)


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_the_host_never_waits(sparse_grad, device):
    if device.type != "cuda":
        pytest.skip("only a GPU is waited for")
    floats, rest = make_inputs(5, 3, 9, 17, device)
    leaves = [tensor.requires_grad_() for tensor in floats]
    settings = {**COSINE, "sparse_grad": sparse_grad, "impl": "triton"}
    torch.autograd.grad(sampled_softmax(*leaves, *rest, **settings), leaves)
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad(sampled_softmax(*leaves, *rest, **settings), leaves)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_float64_is_refused(device):
    floats, rest = make_inputs(5, 3, 9, 17, device, torch.float64)
    with pytest.raises(BackendError, match=r"'triton'.*states is torch.float64.*reference"):
        sampled_softmax(*floats, *rest, impl="triton", **COSINE)
