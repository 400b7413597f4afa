"""GRU4Rec (Hidasi et al., ICLR 2016) on packed sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pdrec_fast.checks import check_counts, check_depths, check_dropout, check_kinds
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.devices import to_device
from pdrec_fast.encoders.base import dropout_key, xavier_init
from pdrec_fast.ops.packed.packed_dropout import packed_dropout
from pdrec_fast.ops.packed.packed_gru import packed_gru
from pdrec_fast.ragged import indptr_of, ranges
from pdrec_fast.random_keys import ENCODER

_PARAMETERS = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"


@dataclass(frozen=True)
class GRU4RecConfig:
    """Options of ``GRU4Rec``.

    Attributes:
        width: of embeddings and states.
        hidden: of the recurrent layers; a linear map leads back to ``width`` where they differ.
        layers: number of recurrent layers.
        max_length: longest sequence; older items are dropped.
        dropout: of the embeddings.
    """

    width: int = 64
    hidden: int = 64
    layers: int = 1
    max_length: int = 200
    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_kinds(self)
        check_counts(self, "width", "hidden", "layers", "max_length")
        check_depths(self, "layers")
        check_dropout(self)


class GRU4Rec(nn.Module):
    """Gated recurrent units over a user's items, from the first to the last.

    Candidates are scored against the table that the items are read from, as sequential
    recommenders have come to do, not against weights of an output layer.

    The random numbers of dropout are those of the batch's ``dropout_key``, stream ``ENCODER``.
    The kernels of a step depend on the lengths of its sequences, so that it cannot be recorded as
    a CUDA graph.

    Args:
        n_items: N, the corpus size.
        config: all options; keyword arguments override single ones.
    """

    recordable = False

    def __init__(self, n_items: int, config: GRU4RecConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = replace(config or GRU4RecConfig(), **options)
        width, hidden = config.width, config.hidden
        self.max_length, self.dropout = config.max_length, config.dropout
        self.item_embedding = nn.Embedding(n_items, width, dtype=torch.float32)
        # One module each: torch then keeps a layer's weights in one piece, as cuDNN wants them.
        self.layers = nn.ModuleList(
            nn.GRU(hidden if number else width, hidden, dtype=torch.float32)
            for number in range(config.layers)
        )
        self.out = (
            nn.Identity() if hidden == width else nn.Linear(hidden, width, dtype=torch.float32)
        )
        xavier_init(self)

    def forward(self, batch: PackedSequences) -> torch.Tensor:
        """States after every token of a packed batch: float32 [T, width]."""
        # Scaled as in SASRec: Xavier's embeddings of many items would hardly move the gates.
        x = self.item_embedding(batch.items) * self.item_embedding.embedding_dim**0.5
        if self.training and self.dropout:
            key = dropout_key(batch)
            x = packed_dropout(x, batch.indptr, self.dropout, key=key, stream=ENCODER)
        sizes, tokens, places = (torch.from_numpy(a) for a in time_order(batch.host_lengths))
        x = x.index_select(0, to_device(tokens, x.device))
        for layer in self.layers:
            x = packed_gru(x, sizes, *(getattr(layer, name) for name in _PARAMETERS))
        return self.out(x.index_select(0, to_device(places, x.device)))


def time_order(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packed tokens in order of time, the longest sequence first at every step.

    Args:
        lengths: int64 [B], in any order, 0 allowed.

    Returns:
        (sizes int64 [L], sequences that reach each place; tokens int64 [T], packed tokens in order
        of time; places int64 [T], its inverse: where each packed token stands then).
    """
    order = np.argsort(-lengths, kind="stable")
    sizes = len(lengths) - np.searchsorted(
        lengths[order[::-1]], np.arange(lengths.max(initial=0)), side="right"
    )
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    step = ranges(np.zeros_like(lengths), lengths)
    places = indptr_of(sizes)[step] + np.repeat(rank, lengths)
    tokens = np.empty_like(places)
    tokens[places] = np.arange(len(places))
    return sizes, tokens, places
