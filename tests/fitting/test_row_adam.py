"""A table that moves by rows beside parameters that move as ever."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.fitting.optimizer import load_optimizer_state, optimizer_state, with_state
from pdrec_fast.fitting.row_adam import RowAdam


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(9, 4, generator=generator))
        self.layer = nn.Linear(4, 1)
        nn.init.constant_(self.layer.weight, 0.3)
        nn.init.zeros_(self.layer.bias)

    def loss(self, rows, *, sparse, whole=False):
        """Two lookups of the table and, perhaps, a product with all of it."""
        first = F.embedding(torch.tensor(rows), self.table, sparse=sparse)
        second = F.embedding(torch.tensor([rows[0]]), self.table, sparse=sparse)
        loss = self.layer(first).exp().sum() + second.square().sum()
        return loss + (first @ self.table.T).exp().sum() if whole else loss


def training(optimizer_class=torch.optim.Adam, **settings):
    model = Model()
    optimizer = with_state(optimizer_class(model.parameters(), lr=0.05, fused=True, **settings))
    return model, optimizer, RowAdam(optimizer, model.table)


def take_step(model, optimizer, row_adam, rows, **how):
    optimizer.zero_grad()
    model.loss(rows, **how).backward()
    row_adam.step()


BATCHES = ([1, 4, 1], [2, 2], [0, 8, 4], [5])


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}])
def test_a_dense_gradient_moves_the_same_rows_as_a_sparse_one(settings):
    sparse, dense = (training(torch.optim.AdamW, **settings) for _ in range(2))
    for rows in BATCHES:
        before = sparse[0].table.detach().clone()
        take_step(*sparse, rows, sparse=True)
        take_step(*dense, rows, sparse=False)
        assert sparse[0].table.grad.is_sparse
        moved = (sparse[0].table != before).any(dim=1).nonzero().ravel().tolist()
        assert moved == sorted(set(rows))
    for a, b in zip(sparse[0].parameters(), dense[0].parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.AdamW])
def test_with_a_gradient_of_every_row_it_is_the_optimizer_itself(optimizer_class):
    settings = {"weight_decay": 0.1} if optimizer_class is torch.optim.AdamW else {}
    rows, plain = (training(optimizer_class, **settings) for _ in range(2))
    for batch in BATCHES:
        take_step(*rows, batch, sparse=True, whole=True)
        take_step(*plain[:2], plain[1], batch, sparse=True, whole=True)
    for a, b in zip(rows[0].parameters(), plain[0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_step_without_gradient_of_the_table():
    model, _, row_adam = training()
    before = model.table.detach().clone()
    model.layer(torch.ones(1, 4)).sum().backward()
    row_adam.step()
    assert torch.equal(model.table, before)
    assert (model.layer.weight != 0.3).all()


def test_restored_state_continues_bit_equal():
    model, optimizer, row_adam = training()
    for rows in BATCHES:
        take_step(model, optimizer, row_adam, rows, sparse=True)
    saved = copy.deepcopy((model.state_dict(), optimizer_state(optimizer, model)))
    assert saved[1]["optimizer.step.table"] == len(BATCHES)
    other = training()
    other[0].load_state_dict(saved[0])
    load_optimizer_state(other[1], other[0], saved[1])
    for rows in BATCHES[::-1]:
        take_step(model, optimizer, row_adam, rows, sparse=True)
        take_step(*other, rows, sparse=True)
    assert torch.equal(model.table, other[0].table)


def test_coupled_weight_decay_is_refused():
    with pytest.raises(ValueError, match=r"weight_decay=0.1: rows move with decoupled decay"):
        training(torch.optim.Adam, weight_decay=0.1)
