"""``sum_rows``: torch's lines that it stands for, bit for bit."""

import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.errors import BackendError
from pdrec_fast.ops.fitting.sum_rows import sum_rows

needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
NONE = torch.zeros(0, dtype=torch.int64)


def gradients_of(n, width, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [1, 3, 16, 67])
def test_steps_follow_torch_bit_for_bit(width, impl):
    out, expected = torch.zeros(9, width), torch.zeros(9, width)
    stale = before = NONE
    for seed, listed in enumerate(([3, 8, 3, 0, 3], [8, 8], [], [1, 2, 3, 4, 5, 6, 7, 8, 0, 0])):
        rows = torch.tensor(listed, dtype=torch.int64)
        gradients = gradients_of(len(rows), width, seed)
        expected.index_fill_(0, before, 0).index_add_(0, rows, gradients)
        stale = sum_rows(out, stale, rows, gradients, impl=impl)
        before = rows
        assert torch.equal(out, expected)
        assert sorted(set(stale.tolist())) == sorted(set(listed))


def test_by_hand(impl):
    out = torch.tensor([[9.0], [9.0], [0.0]])
    sum_rows(
        out, torch.tensor([0]), torch.tensor([2, 0, 2]), torch.tensor([[1.0], [2], [4]]), impl=impl
    )
    assert out.tolist() == [[2], [9], [5]]


def test_columns_of_wider_gradients(impl):
    out = torch.zeros(4, 3)
    gradients = gradients_of(2, 6)[:, ::2]
    sum_rows(out, NONE, torch.tensor([1, 3]), gradients, impl=impl)
    assert torch.equal(out[[1, 3]], gradients)


@needs_extension
def test_the_bits_depend_on_neither_threads_nor_instruction_set():
    rows = torch.randint(30_000, (60_000,), generator=torch.Generator().manual_seed(1))
    gradients, before, results = gradients_of(60_000, 64), build_info()["isa"], []
    for isa in build_info()["isas_runnable"]:
        for n_threads in (1, 3):
            extension.set_isa(isa)
            torch.set_num_threads(n_threads)
            results.append(torch.zeros(30_000, 64))
            sum_rows(results[-1], NONE, rows, gradients, impl="cpp")
    torch.set_num_threads(1)
    extension.set_isa(before)
    assert all(torch.equal(result, results[0]) for result in results)
    assert torch.equal(results[0], torch.zeros(30_000, 64).index_add_(0, rows, gradients))


def test_choice_of_implementation_and_bad_arguments(impl):
    with pytest.raises(ValueError, match=r"rows must lie in 0 .. 3, got 4 at 1"):
        sum_rows(torch.zeros(4, 2), NONE, torch.tensor([0, 4]), torch.ones(2, 2), impl=impl)
    with pytest.raises(ValueError, match=r"gradients must have shape \[2, 2\], got \(2, 3\)"):
        sum_rows(torch.zeros(4, 2), NONE, torch.tensor([0, 1]), torch.ones(2, 3), impl=impl)
    with pytest.raises(ValueError, match=r"rows must be int64 of shape \[n\], got torch.int32"):
        sum_rows(torch.zeros(4, 2), NONE, torch.tensor([0]).int(), torch.ones(1, 2), impl=impl)
    if impl == "cpp":
        with pytest.raises(BackendError, match=r"float32 on the CPU, got torch.float64"):
            sum_rows(torch.zeros(4, 2).double(), NONE, NONE, torch.ones(0, 2), impl=impl)
