"""Gradients of an item table that few rows of a batch reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pdrec_fast.ops.fitting.sum_rows import sum_rows


class TableGradient:
    """One dense gradient for a table, kept from step to step.

    Adam moves every row at every step, so it needs a dense gradient. Autograd would allocate one as
    large as the table for every lookup. Lookups that give sparse gradients
    (``nn.Embedding(sparse=True)``) give one row per looked-up item instead; ``collect`` adds those
    up in one buffer, and clears only the rows that the last step touched.
    """

    def __init__(self, table: nn.Parameter) -> None:
        self._table = table
        self._buffer = torch.zeros_like(table)
        self._touched = torch.zeros(0, dtype=torch.int64, device=table.device)

    @torch.no_grad()
    def collect(self) -> None:
        """Replace a sparse gradient by the buffer; a dense one stays as it is."""
        gradient = self._table.grad
        if gradient is None or not gradient.is_sparse:
            return
        self._touched = sum_rows(
            self._buffer, self._touched, gradient._indices()[0], gradient._values()
        )
        self._table.grad = self._buffer


@contextmanager
def sparse_gradient(embedding: nn.Embedding) -> Iterator[None]:
    """Let lookups of ``embedding`` give sparse gradients meanwhile."""
    before = embedding.sparse
    embedding.sparse = True
    try:
        yield
    finally:
        embedding.sparse = before
