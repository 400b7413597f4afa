"""``adam_rows``: Adam where all rows have a gradient, SparseAdam where some have."""

import math

import pytest
import torch
from torch import nn

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.errors import BackendError
from pdrec_fast.operands import AdamRule, AdamState
from pdrec_fast.ops.fitting.adam_rows import adam_rows

needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
RULE = AdamRule(lr=0.03, beta1=0.9, beta2=0.98, eps=1e-8)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fresh(n_rows, width):
    table = randn(n_rows, width)
    return AdamState(table, torch.zeros_like(table), torch.zeros_like(table))


def test_one_step_by_hand(impl):
    state = AdamState(*(torch.tensor([[value], [value]]) for value in (2.0, 0.5, 0.25)))
    rule = AdamRule(lr=0.1, beta1=0.8, beta2=0.5, eps=0.01, weight_decay=0.3)
    rows, gradients = torch.tensor([1, 1]), torch.tensor([[1.0], [2.0]])
    adam_rows(state, rows, gradients, step=2, rule=rule, impl=impl)
    m, v = 0.5 + 0.2 * (3 - 0.5), 0.5 * 0.25 + 0.5 * 9
    moved = 0.97 * 2 - 0.1 * (m / 0.36) / (math.sqrt(v / 0.75) + 0.01)
    for found, before, after in zip(state, (2, 0.5, 0.25), (moved, m, v), strict=True):
        assert found.ravel().tolist() == pytest.approx([before, after], rel=1e-6)


@pytest.mark.parametrize("width", [1, 3, 16, 67])
@pytest.mark.parametrize("rows", [None, [4, 0, 3, 1, 2, 0, 5, 5]])
def test_where_all_rows_have_a_gradient_it_is_adamw(width, rows, impl):
    state, rule = fresh(6, width), RULE._replace(weight_decay=0.1)
    table = nn.Parameter(state.table.clone())
    keywords = {"lr": 0.03, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.1}
    optimizer = torch.optim.AdamW([table], **keywords)
    index = None if rows is None else torch.tensor(rows)
    for step in range(1, 6):
        gradients = randn(6 if rows is None else len(rows), width, seed=step)
        summed = torch.zeros(6, width)
        table.grad = gradients if rows is None else summed.index_add_(0, index, gradients)
        optimizer.step()
        adam_rows(state, index, gradients, step=step, rule=rule, impl=impl)
        torch.testing.assert_close(state.table, table.detach(), rtol=1e-5, atol=1e-6)
        moments = optimizer.state[table]
        torch.testing.assert_close(state.exp_avg, moments["exp_avg"])
        torch.testing.assert_close(state.exp_avg_sq, moments["exp_avg_sq"])


def test_where_some_rows_have_one_it_is_sparse_adam(impl):
    state = fresh(9, 5)
    table = nn.Parameter(state.table.clone())
    optimizer = torch.optim.SparseAdam([table], lr=0.03, betas=(0.9, 0.98), eps=1e-8)
    for step, listed in enumerate(([3, 8, 3], [8], [0, 1, 3, 3, 3], [7]), start=1):
        rows, gradients = torch.tensor(listed), randn(len(listed), 5, seed=step)
        table.grad = torch.sparse_coo_tensor(
            rows[None], gradients, table.shape, check_invariants=True
        )
        optimizer.step()
        before = [tensor.clone() for tensor in state]
        adam_rows(state, rows, gradients, step=step, rule=RULE, impl=impl)
        torch.testing.assert_close(state.table, table.detach(), rtol=1e-5, atol=1e-6)
        others = [row for row in range(9) if row not in listed]
        for old, new in zip(before, state, strict=True):
            assert torch.equal(old[others], new[others])
            assert not torch.equal(old[listed], new[listed])


def test_a_row_with_a_gradient_of_zeros_stays(impl):
    start = AdamState(*(randn(4, 3, seed=seed).square() for seed in range(3)))
    for rows in (None, torch.tensor([0, 1, 2, 3, 1])):
        gradients = torch.zeros(4 if rows is None else 5, 3)
        gradients[2, 1] = 1e-30
        if rows is not None:  # a sum of zero
            gradients[1], gradients[4] = torch.ones(3), -torch.ones(3)
        state = AdamState(*(tensor.clone() for tensor in start))
        adam_rows(state, rows, gradients, step=3, rule=RULE, impl=impl)
        for old, new in zip(start, state, strict=True):
            assert torch.equal(old[[0, 1, 3]], new[[0, 1, 3]])
            assert not torch.equal(old[2], new[2])


def test_a_gradient_that_is_no_number_is_not_hidden(impl):
    state, gradients = fresh(3, 4), torch.zeros(1, 4)
    gradients[0, 3] = torch.nan
    adam_rows(state, torch.tensor([1]), gradients, step=1, rule=RULE, impl=impl)
    assert state.table.isnan().nonzero().tolist() == [[1, 3]]


def test_rows_may_be_none_at_all(impl):
    state = fresh(3, 4)
    before = state.table.clone()
    none = torch.zeros(0, dtype=torch.int64)
    adam_rows(state, none, torch.zeros(0, 4), step=1, rule=RULE, impl=impl)
    assert torch.equal(state.table, before)


def test_columns_of_wider_gradients_and_a_tensor_of_steps(impl):
    wide, results = randn(5, 6), []
    rows = torch.tensor([2, 0, 2, 1, 1])
    for gradients, step in ((wide[:, ::2], torch.tensor(3.0)), (wide[:, ::2].contiguous(), 3)):
        results.append(fresh(4, 3))
        adam_rows(results[-1], rows, gradients, step=step, rule=RULE, impl=impl)
    torch.testing.assert_close(results[0].table, results[1].table)


@needs_extension
def test_the_bits_depend_on_neither_threads_nor_instruction_set():
    rows = torch.randint(30_000, (60_000,), generator=torch.Generator().manual_seed(1))
    gradients, before, results = randn(60_000, 64), build_info()["isa"], []
    for isa in build_info()["isas_runnable"]:
        for n_threads in (1, 3):
            extension.set_isa(isa)
            torch.set_num_threads(n_threads)
            results.append(fresh(30_000, 64))
            for step in (1, 2):
                adam_rows(results[-1], rows, gradients, step=step, rule=RULE, impl="cpp")
    torch.set_num_threads(1)
    extension.set_isa(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@needs_extension
def test_choice_of_implementation():
    automatic, named = fresh(4, 3), fresh(4, 3)
    adam_rows(automatic, None, randn(4, 3, seed=1), step=1, rule=RULE)
    adam_rows(named, None, randn(4, 3, seed=1), step=1, rule=RULE, impl="cpp")
    assert torch.equal(automatic.table, named.table)
    double = AdamState(*(tensor.double() for tensor in automatic))
    with pytest.raises(BackendError, match=r"float32 on the CPU, got torch.float64"):
        adam_rows(double, None, randn(4, 3).double(), step=1, rule=RULE, impl="cpp")
    columns = AdamState(*(torch.zeros(4, 6)[:, ::2] for _ in range(3)))
    with pytest.raises(BackendError, match=r"contiguous"):
        adam_rows(columns, None, randn(4, 3), step=1, rule=RULE, impl="cpp")
    adam_rows(columns, None, randn(4, 3), step=1, rule=RULE)
    assert columns.table.abs().min() > 0


def test_bad_arguments_are_named(impl):
    state = fresh(4, 2)
    for row in (4, -1):
        with pytest.raises(ValueError, match=rf"rows must lie in 0 .. 3, got {row} at 1"):
            adam_rows(state, torch.tensor([0, row]), torch.ones(2, 2), step=1, rule=RULE, impl=impl)
    with pytest.raises(ValueError, match=r"gradients must have shape \[4, 2\], got \(3, 2\)"):
        adam_rows(state, None, torch.ones(3, 2), step=1, rule=RULE, impl=impl)
    wrong = state._replace(exp_avg_sq=torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"exp_avg_sq must have the table's shape \(4, 2\)"):
        adam_rows(wrong, None, torch.ones(4, 2), step=1, rule=RULE, impl=impl)
