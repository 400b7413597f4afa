"""``item_logits``: hand-made cases, the C++ against the reference, equal bits, refusals."""

import math

import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.ops.candidates.item_logits import item_logits

needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
SIMILARITIES = [{"similarity": "dot"}, {"similarity": "cosine", "temperature": 5.0}]
SIZES = [(1, 1, 1, 1), (3, 2, 5, 7), (33, 7, 37, 50), (5, 130, 64, 300), (2, 9, 1003, 11)]


def make_inputs(n_rows, n_candidates, width, n_items, dtype=torch.float32):
    generator = torch.Generator().manual_seed(n_items)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)

    items = torch.randint(-1, n_items, (n_rows, n_candidates), generator=generator)
    return normal(n_rows, width), normal(n_items, width), items, normal(n_items)


def spread(tensor):
    """The same values, every other column of a wider tensor with garbage between."""
    garbage = 10**6 if not tensor.dtype.is_floating_point else math.nan
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), garbage, dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def test_dot_by_hand(impl):
    states = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    table = torch.tensor([[3.0, 4.0], [0.5, 0.0], [-1.0, 2.0]])
    items = torch.tensor([[0, 1, -1], [2, 2, 0]])
    bias = torch.tensor([0.25, 10.0, -1.0])
    found = item_logits(states, table, items, temperature=9.0, impl=impl)
    assert found.tolist() == [[11, 0.5, -math.inf], [-2, -2, -4]]
    found = item_logits(states, table, items, bias=bias, impl=impl)
    assert found.tolist() == [[11.25, 10.5, -math.inf], [-3, -3, -3.75]]


def test_cosine_by_hand(impl):
    states = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    table = torch.tensor([[6.0, 8.0], [-4.0, 3.0], [0.0, 0.0]])
    items = torch.tensor([[0, 1, 2], [0, 2, -1]])
    bias = torch.tensor([0.5, 0.0, 2.0])
    found = item_logits(
        states, table, items, similarity="cosine", temperature=5.0, bias=bias, impl=impl
    )
    torch.testing.assert_close(found, torch.tensor([[5.5, 0.0, 2.0], [0.5, 2.0, -math.inf]]))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("settings", SIMILARITIES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_error_is_at_most_that_of_plain_torch(impl, sizes, settings, with_bias):
    states, table, items, bias = make_inputs(*sizes)
    bias = bias if with_bias else None
    found = item_logits(states, table, items, bias=bias, impl=impl, **settings)
    wide = (states.double(), table.double(), items)
    truth = item_logits(*wide, bias=bias, impl="reference", **settings)
    eager = item_logits(states, table, items, bias=bias, impl="reference", **settings)
    assert found.dtype == torch.float32
    assert torch.equal(found.isinf(), items < 0)
    present = items >= 0
    if not present.any():
        return
    scale = truth[present].abs().max()
    error = (found.double() - truth)[present].abs().max() / scale
    assert error <= 1e-5
    assert error <= 1.5 * (eager.double() - truth)[present].abs().max() / scale + 2e-7


def test_norms_at_eps_are_those_of_normalize(impl):
    scales = torch.tensor([1e-16, 1e-13, 0.9e-12, 1.1e-12, 1e-6, 1.0, 1e6])
    states = scales[:, None] * torch.tensor([0.6, 0.8, 0.0])
    items = torch.arange(7).repeat(7, 1)
    found = item_logits(states, states, items, similarity="cosine", temperature=3.0, impl=impl)
    unit = torch.nn.functional.normalize(states.double())
    torch.testing.assert_close(found.double(), 3 * unit @ unit.T, rtol=1e-5, atol=0)


@pytest.mark.parametrize("settings", SIMILARITIES)
def test_strided_inputs_and_int32_items(impl, settings):
    states, table, items, bias = make_inputs(33, 7, 37, 50)
    expected = item_logits(states, table, items, bias=bias, impl=impl, **settings)
    strided = [spread(tensor) for tensor in (states, table, items)]
    assert not any(tensor.is_contiguous() for tensor in strided)
    for inputs in (strided, (states, table, items.int())):
        found = item_logits(*inputs, bias=spread(bias), impl=impl, **settings)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("n_rows", "n_candidates"), [(0, 3), (3, 0)])
def test_nothing_to_score(impl, n_rows, n_candidates):
    states, table, items, _ = make_inputs(n_rows, n_candidates, 5, 7)
    assert item_logits(states, table, items, impl=impl).shape == (n_rows, n_candidates)


def test_rows_without_candidates(impl):
    states, table, _, bias = make_inputs(3, 2, 5, 7)
    items = torch.full((3, 70), -1)
    assert (item_logits(states, table, items, bias=bias, impl=impl) == -math.inf).all()


def test_no_gradient_flows(impl):
    states, table, items, _ = make_inputs(3, 2, 5, 7)
    found = item_logits(states.requires_grad_(), table.requires_grad_(), items, impl=impl)
    assert not found.requires_grad


def test_float64_runs_in_the_reference():
    states, table, items, bias = make_inputs(3, 2, 5, 7, torch.float64)
    found = item_logits(states, table, items, bias=bias)
    assert found.dtype == torch.float64
    assert torch.equal(found, item_logits(states, table, items, bias=bias, impl="reference"))


@needs_extension
def test_half_precision_is_widened():
    states, table, items, _ = make_inputs(3, 2, 5, 7, torch.bfloat16)
    found = item_logits(states, table, items, impl="cpp")
    assert torch.equal(found, item_logits(states.float(), table.float(), items, impl="cpp"))


@needs_extension
@pytest.mark.parametrize("settings", SIMILARITIES)
def test_bits_depend_neither_on_threads_nor_on_the_instruction_set(settings):
    states, table, items, bias = make_inputs(701, 64, 61, 300)
    before, threads = build_info()["isa"], torch.get_num_threads()
    results = []
    for isa in build_info()["isas_runnable"]:
        extension.set_isa(isa)
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            results.append(item_logits(states, table, items, bias=bias, impl="cpp", **settings))
    torch.set_num_threads(threads)
    extension.set_isa(before)
    assert all(torch.equal(result, results[0]) for result in results)


@needs_extension
def test_custom_op_contract():
    states, table, items, bias = make_inputs(5, 7, 9, 17)
    operation = torch.ops.pdrec_fast.item_logits.default
    for last in (bias, None):
        torch.library.opcheck(operation, (states, table, items, "cosine", 5.0, None, last))


@needs_extension
@pytest.mark.parametrize("temperature", [None, 5.0, torch.tensor(5.0)], ids=str)
def test_compiles_without_a_graph_break(temperature):
    states, table, items, bias = make_inputs(5, 7, 9, 17)
    how = {} if temperature is None else {"similarity": "cosine", "temperature": temperature}
    compiled = torch.compile(item_logits, fullgraph=True, backend="aot_eager")
    found = compiled(states, table, items, bias=bias, **how)
    assert torch.equal(found, item_logits(states, table, items, bias=bias, **how))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": torch.zeros(3, 4)}, r"must share d, got shapes \(3, 4\) and \(7, 5\)"),
        ({"states": torch.zeros(5)}, "must share d"),
        ({"items": torch.zeros(2, 2, dtype=torch.int64)}, r"items must have shape \[3, C\]"),
        ({"items": torch.zeros(3, dtype=torch.int64)}, r"items must have shape \[3, C\]"),
        ({"items": torch.zeros(3, 2)}, "items must be int64 or int32, got torch.float32"),
        (
            {"items": torch.tensor([[0, 1], [6, 7], [0, 0]])},
            r"items must lie in 0 .. 6, or be -1 where absent, got 7 in row 1, column 1",
        ),
        ({"items": torch.full((3, 2), -2)}, "got -2 in row 0, column 0"),
        ({"items": torch.full((3, 2), 2**32)}, "got 4294967296 in row 0, column 0"),
        (
            {"table": torch.zeros(7, 5, device="meta")},
            "table must be on the device of states, cpu, got meta",
        ),
        ({"similarity": "cos"}, "similarity must be 'cosine' or 'dot', got 'cos'"),
        ({"temperature": math.nan}, "temperature must be finite, got nan"),
        ({"bias": torch.zeros(6)}, r"bias must have shape \[7\], got \(6,\)"),
        ({"impl": "tritn"}, "unknown impl='tritn'"),
    ],
)
def test_bad_arguments(impl, change, message):
    states, table, items, _ = make_inputs(3, 2, 5, 7)
    arguments = {"states": states, "table": table, "items": items, "impl": impl}
    with pytest.raises(ValueError, match=message):
        item_logits(**(arguments | change))
