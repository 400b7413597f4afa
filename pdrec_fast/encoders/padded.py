"""Models that read padded sequences, as encoders."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import nn

from pdrec_fast.data.sequences import PackedSequences

PaddingSide = Literal["left", "right"]


class PaddedEncoder(nn.Module):
    """Lets ``PDRec`` train a model that takes padded ids, as most published ones do.

    The model takes int64 [B, L], with items from 1 on and 0 for padding, embeds them by an
    ``nn.Embedding`` with a row for every item after that for padding, and gives the state after
    every place, [B, L, width]; a state may depend on no later place. For N items, made by a
    function, so that it can be loaded again::

        def my_model(n_items):
            return pf.PaddedEncoder(MyModel(n_items + 1), max_length=50)

        pf.PDRec(my_model).fit(split, preferences)

    The model's embedding is replaced by one without the row for padding, which is the
    ``item_embedding`` that items are scored against; padding embeds as zeros. The model may call
    it, or read its ``weight``. Its steps are not recorded as CUDA graphs.

    Args:
        module: the model; its own weights are kept.
        max_length: longest sequence that it reads.
        embedding: name of the embedding within the model, e.g. ``"layers.items"``.
        side: where padding stands. After the items (``"right"``) no causal model sees it, so that
            batches are as long as their longest sequence. Before them (``"left"``) it is for the
            model to ignore; every sequence is padded to ``max_length``, so that its states do not
            depend on the others of its batch.

    Raises:
        ValueError: an argument out of its range, there is no such embedding, or another part of the
            model shares its weights.
    """

    recordable = False  # as CUDA graphs: batches are as long as their longest sequence

    def __init__(
        self,
        module: nn.Module,
        max_length: int,
        *,
        embedding: str = "item_embedding",
        side: PaddingSide = "right",
    ) -> None:
        super().__init__()
        if side not in get_args(PaddingSide):
            raise ValueError(f"side={side!r}: choose one of {get_args(PaddingSide)}")
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        modules = dict(module.named_modules())
        found = modules.get(embedding)
        if not isinstance(found, nn.Embedding):
            known = [name for name, part in modules.items() if isinstance(part, nn.Embedding)]
            raise ValueError(
                f"{type(module).__name__} has no nn.Embedding named {embedding!r}; pass "
                f"embedding=, one of {known}"
            )
        owner, _, name = embedding.rpartition(".")
        setattr(modules[owner], name, _PaddedTable(found))
        shared = [key for key, value in module.named_parameters() if value is found.weight]
        if shared:
            raise ValueError(
                f"{shared[0]} shares the weights of {embedding}, which are replaced: let the model "
                f"read {embedding}.weight where it needs them"
            )
        self.module, self.max_length = module, max_length
        self._embedding, self.side = embedding, side

    @property
    def item_embedding(self) -> nn.Embedding:
        """One row for every item, [N, width]."""
        table = self.module.get_submodule(self._embedding)
        assert isinstance(table, _PaddedTable)
        return table.items

    def forward(self, batch: PackedSequences) -> torch.Tensor:
        """The state after every token, [T, width].

        Raises:
            ValueError: the model gave another shape.
        """
        width = self.item_embedding.embedding_dim
        if not batch.n_tokens:
            return self.item_embedding.weight.new_zeros((0, width))
        places = self._places(batch)
        length = self.max_length if self.side == "left" else int(batch.lengths[0])
        ids = batch.items.new_zeros((len(batch), length)).index_put(places, batch.items + 1)
        states = self.module(ids)
        if states.shape != (*ids.shape, width):
            raise ValueError(
                f"{type(self.module).__name__} gave shape {list(states.shape)} for ids of shape "
                f"{list(ids.shape)}; wanted are states {[*ids.shape, width]}, of the width of "
                f"{self._embedding}, after every place"
            )
        return states[places]

    def _places(self, batch: PackedSequences) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column of every token in the padded ids."""
        rows = batch.rows
        if self.side == "left":
            return rows, batch.positions
        return rows, torch.arange(batch.n_tokens, device=rows.device) - batch.indptr[rows]


class _PaddedTable(nn.Module):
    """Looks up items from 1 on in a table without padding; 0 gives zeros."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.items = nn.Embedding.from_pretrained(
            embedding.weight.detach()[1:].clone(), freeze=False
        )

    @property
    def weight(self) -> torch.Tensor:
        """[N + 1, width], zeros first."""
        return nn.functional.pad(self.items.weight, (0, 0, 1, 0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.items((ids - 1).clamp_min(0)) * (ids > 0)[..., None]
