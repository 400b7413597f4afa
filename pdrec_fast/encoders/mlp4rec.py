"""MLP4Rec (Li et al., IJCAI 2022, arXiv:2204.11510)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.checks import check_counts, check_depths, check_dropout, check_kinds
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders.base import xavier_init
from pdrec_fast.encoders.prefixes import CHOICE, PrefixModel, prefixes_of


@dataclass(frozen=True)
class MLP4RecConfig:
    """Options of ``MLP4Rec``.

    Attributes:
        width: of embeddings and states.
        layers: how often sequence and channels are mixed.
        expansion: of a mixer's hidden layer.
        max_length: S, the places that are mixed; older items are dropped.
        prefixes: next items learned from, of every sequence in every epoch.
        dropout: of what a mixer adds.
    """

    width: int = 64
    layers: int = 2
    expansion: int = 4
    max_length: int = 50
    prefixes: int = 8
    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_kinds(self)
        check_counts(self, "width", "layers", "expansion", "max_length", "prefixes")
        check_depths(self, "layers")
        check_dropout(self)


class MLP4Rec(PrefixModel):
    """Two-layer perceptrons that mix the places of a sequence, then the channels of every place.

    A mixer is ``x + W2 GELU(W1 LN(x))``, along the S places for every channel, and along the
    channels for every place. Places without an item are zeros before the first mixer, and their
    number does not depend on the batch. The state is that of the latest item, normalised. As in
    the authors' code, one pair of mixers serves all layers.

    The paper's third direction mixes an item's features with each other. Here features enter the
    embedding (``encoders.featured``), so the feature mixer has nothing to mix and is left out.

    The mixing is not causal: every prefix is a row of its own, and a state reads no later item.

    Args:
        n_items: N, the corpus size.
        config: all options; keyword arguments override single ones.
    """

    def __init__(self, n_items: int, config: MLP4RecConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = replace(config or MLP4RecConfig(), **options)
        self.max_length, self.dropout = config.max_length, config.dropout
        self.prefixes, self.layers = config.prefixes, config.layers
        self.item_embedding = nn.Embedding(n_items, config.width, dtype=torch.float32)
        self.places = _Mixer(config.max_length, config)
        self.channels = _Mixer(config.width, config)
        self.norm = nn.LayerNorm(config.width, dtype=torch.float32)
        xavier_init(self)

    def prefix_states(self, batch: PackedSequences, tokens: torch.Tensor) -> torch.Tensor:
        """The states after some tokens: [P, width]."""
        prefixes = prefixes_of(batch, tokens, self.max_length)
        x = prefixes.gather(self._embedded(batch))
        dropout = self._dropout(batch, prefixes.rows)

        def drop(values: torch.Tensor, stream: int) -> torch.Tensor:
            n_rows, length, _ = values.shape
            ends = torch.arange(n_rows + 1, device=x.device) * length
            return dropout(values.flatten(0, 1), ends, stream).view_as(values)

        for layer in range(self.layers):
            stream = CHOICE + 1 + 2 * layer
            mixed = self.places(self.places.norm(x).transpose(1, 2))
            # Of the last layer only the latest item's place is read.
            n_read = 1 if layer + 1 == self.layers else self.max_length
            x = x[:, :n_read] + drop(mixed.transpose(1, 2)[:, :n_read], stream)
            x = x + drop(self.channels(self.channels.norm(x)), stream + 1)
        return self.norm(x[:, 0])


class _Mixer(nn.Module):
    """A perceptron along the last dimension, of ``size``, and the norm that comes before it."""

    def __init__(self, size: int, config: MLP4RecConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, dtype=torch.float32)
        self.hidden = nn.Linear(size, config.expansion * size, dtype=torch.float32)
        self.out = nn.Linear(config.expansion * size, size, dtype=torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.gelu(self.hidden(x)))
