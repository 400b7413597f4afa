"""A table's sparse gradients as one dense buffer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.fitting.table_gradient import TableGradient, sparse_gradient


def losses(table, sparse):
    """Two lookups of one table, one of them with a repeated row."""
    first = F.embedding(torch.tensor([1, 4, 1]), table, sparse=sparse)
    second = F.embedding(torch.tensor([[0], [4]]), table, sparse=sparse)
    return first.square().sum() + (second * torch.tensor([2.0, 3.0])).sum()


def test_steps_give_the_dense_gradients():
    start = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    dense, table = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    gradient = TableGradient(table)
    optimizers = [torch.optim.Adam([each], lr=0.1) for each in (dense, table)]
    place = None
    for rows in ([1, 4], [5, 0], [2, 2]):
        for parameter, sparse in ((dense, False), (table, True)):
            parameter.grad = None
            loss = losses(parameter, sparse)
            loss = loss + F.embedding(torch.tensor(rows), parameter, sparse=sparse).exp().sum()
            loss.backward()
        assert table.grad.is_sparse
        gradient.collect()
        torch.testing.assert_close(table.grad, dense.grad)
        assert place in (None, table.grad.data_ptr())
        place = table.grad.data_ptr()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(table, dense)


def test_dense_and_missing_gradients_are_left_alone():
    table = nn.Parameter(torch.ones(3, 2))
    gradient = TableGradient(table)
    gradient.collect()
    assert table.grad is None
    (F.embedding(torch.tensor([0]), table, sparse=True).sum() + table.sum()).backward()
    expected = table.grad.clone()
    gradient.collect()
    assert torch.equal(table.grad, expected)
    assert table.grad.tolist() == [[2, 2], [1, 1], [1, 1]]


def test_an_embedding_is_sparse_only_meanwhile():
    embedding = nn.Embedding(4, 2)
    with sparse_gradient(embedding):
        embedding(torch.tensor([1])).sum().backward()
    assert embedding.weight.grad.is_sparse
    assert not embedding.sparse


def test_an_error_leaves_the_embedding_as_it_was():
    embedding = nn.Embedding(4, 2)

    def fail():
        with sparse_gradient(embedding):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not embedding.sparse
