"""``item_logits`` in Triton: against float64, on odd sizes and strides, and outside the table."""

import math

import pytest
import torch

from pdrec_fast.ops.candidates.item_logits import item_logits

pytest.importorskip("triton", reason="Triton is not installed")

SIMILARITIES = [{"similarity": "dot"}, {"similarity": "cosine", "temperature": 5.0}]
# T, C, d, N; more than a block of tokens, of candidates, of columns.
SIZES = [(1, 1, 1, 1), (35, 3, 20, 7), (3, 37, 61, 30), (2, 5, 131, 4)]


def make_inputs(n_tokens, n_candidates, width, n_items, device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(width)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(device, dtype)

    items = torch.randint(-1, n_items, (n_tokens, n_candidates), generator=generator)
    return normal(n_tokens, width), normal(n_items, width), items.to(device), normal(n_items)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("settings", SIMILARITIES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_is_at_most_that_of_plain_torch(sizes, settings, with_bias, dtype, device):
    states, table, items, bias = make_inputs(*sizes, device, dtype)
    bias = bias if with_bias else None
    found = item_logits(states, table, items, bias=bias, impl="triton", **settings)

    def reference(float_dtype):
        floats = states.to(float_dtype), table.to(float_dtype)
        wide_bias = None if bias is None else bias.to(float_dtype)
        return item_logits(*floats, items, bias=wide_bias, impl="reference", **settings)

    truth, eager = reference(torch.float64), reference(torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found == -math.inf, items < 0)
    present = items >= 0
    if not present.any():
        return
    scale = truth[present].abs().max()
    error = (found.double() - truth)[present].abs().max() / scale
    assert error <= 1.5 * (eager.double() - truth)[present].abs().max() / scale + 2e-7


@pytest.mark.parametrize("settings", SIMILARITIES)
def test_strided_inputs_and_int32_items(settings, device):
    states, table, items, bias = make_inputs(9, 5, 12, 20, device)
    expected = item_logits(states, table, items, bias=bias, impl="triton", **settings)
    strided = [tensor.T.contiguous().T for tensor in (states, table, items.int())]
    assert not any(tensor.is_contiguous() for tensor in strided)
    spread_bias = torch.stack([bias, bias * math.nan], dim=1)[:, 0]
    found = item_logits(*strided, bias=spread_bias, impl="triton", **settings)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("outside", [-2, 7, 2**40])
def test_items_outside_the_table_are_nan(outside, device):
    states, table, _, bias = make_inputs(2, 3, 5, 7, device)
    items = torch.tensor([[0, outside, -1], [6, 1, 2]], device=device)
    found = item_logits(states, table, items, bias=bias, impl="triton")
    known = item_logits(states, table, items.clamp(-1, 6), bias=bias, impl="triton")
    assert found[0, 1].isnan()
    found[0, 1] = known[0, 1]
    assert torch.equal(found, known)


def test_norms_at_eps_are_those_of_normalize(device):
    scales = torch.tensor([1e-16, 0.9e-12, 1.1e-12, 1.0, 1e6], device=device)
    states = scales[:, None] * torch.tensor([0.6, 0.8, 0.0], device=device)
    items = torch.arange(5, device=device).repeat(5, 1)
    found = item_logits(states, states, items, similarity="cosine", temperature=3.0, impl="triton")
    unit = torch.nn.functional.normalize(states.double())
    torch.testing.assert_close(found.double(), 3 * unit @ unit.T, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("n_tokens", "n_candidates"), [(0, 3), (3, 0)])
def test_nothing_to_score(n_tokens, n_candidates, device):
    states, table, items, _ = make_inputs(n_tokens, n_candidates, 5, 7, device)
    found = item_logits(states, table, items, impl="triton")
    assert found.shape == (n_tokens, n_candidates)


def test_custom_op_contract(device):
    states, table, items, bias = make_inputs(5, 7, 9, 17, device, torch.bfloat16)
    operation = torch.ops.pdrec_fast.item_logits.default
    for last in (bias.float(), None):
        torch.library.opcheck(
            operation, (states, table, items, "cosine", 5.0, None, last, "triton")
        )


def test_compiles_without_a_graph_break(device):
    states, table, items, bias = make_inputs(5, 7, 9, 17, device)
    compiled = torch.compile(item_logits, fullgraph=True, backend="aot_eager")
    found = compiled(states, table, items, bias=bias, impl="triton")
    assert torch.equal(found, item_logits(states, table, items, bias=bias, impl="triton"))
