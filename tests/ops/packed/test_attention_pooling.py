"""``attention_pooling`` by hand, against float64, and with equal bits."""

import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.errors import BackendError
from pdrec_fast.ops.packed.attention_pooling import attention_pooling
from tests.ops.packed._sequences import offsets

pytestmark = pytest.mark.usefixtures("poisoned_memory")
needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
LENGTHS = (200, 33, 17, 16, 8, 5, 2, 2, 1, 1)


def make_inputs(lengths, heads, width, dtype=torch.float32):
    """x and queries, neither contiguous."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(width, sum(lengths), generator=generator).t()
    queries = torch.randn(heads, len(lengths), width, generator=generator).transpose(0, 1)
    return x.to(dtype), queries.to(dtype)


def test_by_hand(impl):
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0], [5.0, 7.0]])
    logit = torch.log(torch.tensor(3.0)) / 2  # of the first column: weights 1 to 3
    queries = torch.stack([torch.zeros(2, 2), torch.stack([logit, torch.tensor(0.0)]).repeat(2, 1)])
    found = attention_pooling(x, offsets((2, 1)), queries.transpose(0, 1), impl=impl)
    expected = torch.tensor([[[1.0, 2.0], [1.5, 2.5]], [[5.0, 7.0], [5.0, 7.0]]])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("lengths", [LENGTHS, (1,), (3, 0, 1), (0,), ()])
@pytest.mark.parametrize(("heads", "width"), [(1, 64), (2, 64), (1, 17), (3, 35), (1, 1), (2, 128)])
def test_as_accurate_as_torch(heads, width, lengths, impl):
    x, queries = make_inputs(lengths, heads, width)
    found = attention_pooling(x, offsets(lengths), queries, impl=impl)
    truth = torch.zeros(queries.shape, dtype=torch.float64)
    for b, tokens in enumerate(x.double().split(list(lengths))):
        truth[b] = (queries[b].double() @ tokens.T).softmax(1) @ tokens
    assert found.dtype == torch.float32
    assert found.shape == queries.shape
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=2e-5)


def test_large_scores_do_not_overflow_and_nan_stays_in_its_sequence(impl):
    x = torch.tensor([[1e4, 0.0], [-1e4, 1.0], [torch.nan, 1.0], [1.0, 2.0]])
    queries = torch.tensor([[[1e4, 0.0]], [[1.0, 1.0]]])
    found = attention_pooling(x, offsets((2, 2)), queries, impl=impl)
    assert found[0].tolist() == [[1e4, 0.0]]
    assert found[1].isnan().all()


@needs_extension
def test_bits_depend_neither_on_threads_nor_on_the_instruction_set():
    x, queries = make_inputs(LENGTHS * 9, 2, 67)
    indptr, before = offsets(LENGTHS * 9), extension.build_info()["isa"]
    found = []
    for isa in build_info()["isas_runnable"]:
        for n_threads in (1, 3):
            extension.set_isa(isa)
            torch.set_num_threads(n_threads)
            found.append(attention_pooling(x, indptr, queries, impl="cpp"))
    extension.set_isa(before)
    torch.set_num_threads(1)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_other_dtypes_take_the_reference():
    x, queries = make_inputs((3, 2), 2, 5, torch.float64)
    assert attention_pooling(x, offsets((3, 2)), queries).dtype == torch.float64
    with pytest.raises(BackendError, match="computes float32 on a CPU"):
        attention_pooling(x, offsets((3, 2)), queries, impl="cpp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indptr": torch.tensor([0, 3, 6])}, "rise from 0 to 5"),
        ({"indptr": torch.tensor([0, 5])}, "B = 1"),
        ({"indptr": torch.tensor([0.0, 3.0, 5.0])}, "int64"),
        ({"x": torch.zeros(5, 4)}, "queries"),
        ({"queries": torch.zeros(2, 5)}, "queries"),
        ({"queries": torch.zeros(2, 1, 5, dtype=torch.float64)}, "one dtype"),
    ],
)
def test_bad_arguments(change, message):
    x, queries = make_inputs((3, 2), 2, 5)
    arguments = {"x": x, "indptr": offsets((3, 2)), "queries": queries} | change
    with pytest.raises(ValueError, match=message):
        attention_pooling(**arguments)
