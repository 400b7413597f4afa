"""An item table of which every process has its share of the rows, and a step the rows it needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from pdrec_fast.operands import SharedNegatives
from pdrec_fast.ranks import Mesh
from pdrec_fast.ranks.gradients import sum_rows_of, union_of
from pdrec_fast.ranks.shards import RowShards
from pdrec_fast.training.batches import Batch

NAME = "item_embedding.weight"  # in an encoder's state dict
LOSSES = ("bce", "softmax", "shared_softmax")  # that ask for no more than a batch's rows


class SharedTable:
    """Takes the place of an embedding's weight during training.

    Between steps the weight is this process's rows. ``fetch`` puts the rows of everybody's batch
    there, renumbered, a few thousand of them; ``hand_over`` brings their gradient to the owners.

    Args:
        embedding: an ``nn.Embedding`` [N, d] with all rows.
        mesh: its axis ``items`` shares the rows.
    """

    def __init__(self, embedding: nn.Embedding, mesh: Mesh) -> None:
        self.embedding, self.mesh = embedding, mesh
        self.shards = RowShards(mesh.items, embedding.num_embeddings, [NAME])
        self.rows = nn.Parameter(embedding.weight.detach()[self.shards.rows].clone())
        embedding.weight = self.rows
        self._union = torch.zeros(0, dtype=torch.int64)

    def fetch(self, batch: Batch | None) -> Batch | None:
        """The batch with its items renumbered to the rows that the embedding has now."""
        device, n_items = self.rows.device, self.embedding.num_embeddings
        items = torch.zeros(0, dtype=torch.int64, device=device)
        if batch is not None:
            items = torch.cat([each.reshape(-1) for each in _items_of(batch)])
        # Beyond the items stand masks, below them what is absent.
        self._union = union = union_of(items[(items >= 0) & (items < n_items)], self.mesh.all)
        here, places = self._own(union)
        table = self.rows.new_zeros((len(union), self.rows.shape[1]))
        table[here] = self.rows.detach()[places]
        self.embedding.weight = nn.Parameter(self.mesh.items.sum_(table))
        return None if batch is None else self._renumbered(batch)

    def hand_over(self) -> None:
        """Give this process's rows their gradient, of everybody's batch, and put them back."""
        table, grad = self.embedding.weight, self.embedding.weight.grad
        self.embedding.weight = self.rows
        at = torch.zeros(0, dtype=torch.int64, device=table.device)
        values = table.detach()[:0]
        if grad is not None:
            at, values = grad._indices()[0], grad._values()
        at, sums = sum_rows_of(at, values, self.mesh.all)
        here, places = self._own(self._union[at])
        self.rows.grad = torch.sparse_coo_tensor(
            places[None], sums[here], self.rows.shape, check_invariants=False
        )

    @contextmanager
    def joined(self) -> Iterator[None]:
        """All rows are there meanwhile."""
        self.join()
        try:
            yield
        finally:
            self.embedding.weight = self.rows

    def join(self) -> None:
        """Put all rows there."""
        self.embedding.weight = nn.Parameter(self.shards.joined(self.rows))

    def _own(self, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(bool [n], which of the items are this process's; their places among its rows)."""
        rows = self.shards.rows
        here = (items >= rows.start) & (items < rows.stop)
        return here, items[here] - rows.start

    def _renumbered(self, batch: Batch) -> Batch:
        n_items, union = self.embedding.num_embeddings, self._union

        def places(items: torch.Tensor) -> torch.Tensor:
            known = (items >= 0) & (items < n_items)
            return torch.where(known, torch.searchsorted(union, items), items)

        found = replace(
            batch,
            sequences=replace(batch.sequences, items=places(batch.sequences.items)),
            candidates=places(batch.candidates),
        )
        if batch.soft_positives is not None:
            found = replace(found, soft_positives=places(batch.soft_positives))
        if batch.views is not None:
            found = replace(found, views=replace(batch.views, items=places(batch.views.items)))
        if batch.shared is not None:
            negatives, offsets = batch.shared
            found = replace(found, shared=SharedNegatives(places(negatives), offsets))
        return found


def _items_of(batch: Batch) -> Iterator[torch.Tensor]:
    yield batch.sequences.items
    yield batch.candidates
    if batch.soft_positives is not None:
        yield batch.soft_positives
    if batch.views is not None:
        yield batch.views.items
    if batch.shared is not None:
        yield batch.shared.negatives
