"""Caser (Tang & Wang, WSDM 2018, arXiv:1809.07426)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.checks import check_counts, check_depths, check_dropout, check_kinds
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders.base import dropout_key, xavier_init
from pdrec_fast.encoders.prefixes import prefixes_of
from pdrec_fast.ops.packed.packed_dropout import packed_dropout
from pdrec_fast.random_keys import ENCODER


@dataclass(frozen=True)
class CaserConfig:
    """Options of ``Caser``.

    Attributes:
        width: d, of embeddings and states.
        window: L, how many items a state reads.
        horizontal: filters of each height from 1 to L.
        vertical: filters over the L items.
        max_length: of the sequences that it is trained on; a state reads the window alone.
        dropout: of what the filters give.
    """

    width: int = 64
    window: int = 5
    horizontal: int = 16
    vertical: int = 4
    max_length: int = 200
    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_kinds(self)
        check_counts(self, "width", "window", "horizontal", "vertical", "max_length")
        check_depths(self, "window")
        check_dropout(self)


class Caser(nn.Module):
    """Convolutions over the embeddings E [L, d] of the latest L items.

    Horizontal filters of h items and the whole width are moved over E, and of each the largest
    ReLU counts; vertical ones are weighted sums of the L items (section 3.2). A layer makes the
    state of both, ``ReLU(W [o, õ] + b)``.

    This is the paper's Caser without the embedding of the user (its variant "vh"): a user must not
    have been trained on to be recommended to. So the state is that layer, not its concatenation
    with the user, and items are ranked by the table that they are read from, as for every
    encoder here. ReLU would leave a state one orthant of that table; a linear map follows. Of the T
    next items that the paper learns from at once, T is 1.

    Args:
        n_items: N, the corpus size.
        config: all options; keyword arguments override single ones.
    """

    recordable = False

    def __init__(self, n_items: int, config: CaserConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = replace(config or CaserConfig(), **options)
        width, self.window = config.width, config.window
        self.max_length, self.dropout = config.max_length, config.dropout
        self.item_embedding = nn.Embedding(n_items, width, dtype=torch.float32)
        self.horizontal = nn.ModuleList(
            nn.Conv1d(width, config.horizontal, height, dtype=torch.float32)
            for height in range(1, self.window + 1)
        )
        self.vertical = nn.Linear(self.window, config.vertical, bias=False, dtype=torch.float32)
        n_features = self.window * config.horizontal + config.vertical * width
        self.mix = nn.Linear(n_features, width, dtype=torch.float32)
        self.out = nn.Linear(width, width, dtype=torch.float32)
        xavier_init(self)

    def forward(self, batch: PackedSequences) -> torch.Tensor:
        """States after every token of a packed batch: float32 [T, width]."""
        features = self._features(batch, torch.arange(batch.n_tokens, device=batch.items.device))
        if self.training and self.dropout:
            key = dropout_key(batch)
            features = packed_dropout(features, batch.indptr, self.dropout, key=key, stream=ENCODER)
        return self._state(features)

    @torch.no_grad()
    def last_states(self, batch: PackedSequences) -> torch.Tensor:
        """``self(batch)[batch.last]`` to rounding, without gradient: [B, width]."""
        if self.training:
            states: torch.Tensor = self(batch)
            return states[batch.last]
        return self.prefix_states(batch, batch.last)

    def prefix_states(self, batch: PackedSequences, tokens: torch.Tensor) -> torch.Tensor:
        """The states after some tokens [P], without dropout: [P, width]."""
        return self._state(self._features(batch, tokens))

    def _features(self, batch: PackedSequences, tokens: torch.Tensor) -> torch.Tensor:
        """What the filters find before and at each of the tokens [P]: [P, features]."""
        items = self.item_embedding(batch.items) * self.item_embedding.embedding_dim**0.5
        # [P, width, window], the latest item first: it is the filters that learn the order.
        windows = prefixes_of(batch, tokens, self.window).gather(items).transpose(1, 2)
        across = [F.relu(filters(windows)).amax(dim=2) for filters in self.horizontal]
        return torch.cat([*across, self.vertical(windows).flatten(1)], dim=1)

    def _state(self, features: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu(self.mix(features)))
