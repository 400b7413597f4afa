"""BERT4Rec (Sun et al., CIKM 2019, arXiv:1904.06690)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.checks import check_ratios
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders.base import positions_like_items, xavier_init
from pdrec_fast.encoders.prefixes import (
    CHOICE,
    Prefixes,
    PrefixModel,
    RowDropout,
    Rows,
    choice_words,
    longest,
    prefixes_of,
    rows_of,
)
from pdrec_fast.encoders.transformer import (
    BidirectionalBlock,
    TransformerConfig,
    first_after,
)


@dataclass(frozen=True)
class BERT4RecConfig(TransformerConfig):
    """Options of ``BERT4Rec``: those of a Transformer, and of its Cloze task.

    Attributes:
        mask: ρ, the share of items that are masked and learned from in an epoch, besides the last
            one of every sequence.
    """

    mask: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratios(self, "mask")


class BERT4Rec(PrefixModel):
    """A bidirectional Transformer that fills in masked items.

    An item is predicted from those on both sides of it, masked ones left out (section 3.6, eq. 8);
    to recommend, a mask is put after the history. A block is ``LN(x + Dropout(f(x)))`` for
    attention and for a feed-forward layer with GELU (eqs. 1 to 6). A masked place's last state h
    gives ``GELU(h W + b)`` against the item table (eq. 7), normalised as in the authors' code,
    which the paper leaves out, as it does the normalisation of the inputs. The bias of every item
    is left out: states are ranked against the table alone.

    The last place is masked in every sequence, as in scoring. The paper adds sequences with only
    that mask to those with random ones; the first record of a user, which is nobody's next item, is
    never masked.

    Args:
        n_items: N, the corpus size.
        config: all options; keyword arguments override single ones.
    """

    def __init__(self, n_items: int, config: BERT4RecConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = replace(config or BERT4RecConfig(), **options)
        width = config.width
        self.max_length, self.dropout, self.mask = config.max_length, config.dropout, config.mask
        self.item_embedding = nn.Embedding(n_items, width, dtype=torch.float32)
        self.position_embedding = nn.Embedding(config.max_length + 1, width, dtype=torch.float32)
        self.input_norm = nn.LayerNorm(width, dtype=torch.float32)
        self.blocks = nn.ModuleList(
            BidirectionalBlock(config, CHOICE + 2 + 2 * number, pre_norm=False)
            for number in range(config.blocks)
        )
        self.project = nn.Linear(width, width, dtype=torch.float32)
        self.norm = nn.LayerNorm(width, dtype=torch.float32)
        xavier_init(self)
        positions_like_items(self)
        # Not a row of the table, as every row is an item that can be recommended.
        spread = float(self.item_embedding.weight.detach().std())
        own = nn.init.normal_(torch.empty(width, dtype=torch.float32))
        self.mask_embedding = nn.Parameter(spread * own)

    def chosen(self, sequences: PackedSequences) -> np.ndarray:
        """Each token by itself with probability ρ, and the last of every sequence: bool [T]."""
        chosen = choice_words(sequences) < round(self.mask * 2**32)
        chosen[sequences.last.numpy()] = True
        return chosen

    def prefix_states(self, batch: PackedSequences, tokens: torch.Tensor) -> torch.Tensor:
        """The states of a mask after each of these tokens and what comes before it."""
        prefixes = prefixes_of(batch, tokens, longest(batch))
        x, rows, drop = self._masked_after(batch, self._embedded(batch), prefixes)
        return self._head(first_after(self.blocks, x, rows, drop))

    def training_states(
        self, batch: PackedSequences, tokens: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """The states of the places of ``targets``, all of which are masked; one row a sequence."""
        rows = batch.rows.index_select(0, tokens)
        back = batch.last.index_select(0, rows) - tokens
        # What comes after a sequence's last token is not in the batch: its mask is put there.
        target_tokens = (tokens + 1).masked_fill(back == 0, batch.n_tokens)
        hidden = torch.zeros(batch.n_tokens + 1, dtype=torch.bool, device=tokens.device)
        hidden = hidden.index_fill(0, target_tokens, True)[:-1]
        mask = self.mask_embedding * self.mask_embedding.numel() ** 0.5
        items = torch.where(hidden.unsqueeze(1), mask, self._embedded(batch))
        prefixes = prefixes_of(batch, batch.last, longest(batch))
        x, places, drop = self._masked_after(batch, items, prefixes)
        for block in self.blocks:
            x = block(x, places, drop)
        return self._head(x.index_select(0, places.indptr[rows] + back))

    def _masked_after(
        self, batch: PackedSequences, items: torch.Tensor, prefixes: Prefixes
    ) -> tuple[torch.Tensor, Rows, RowDropout]:
        """What the blocks read of items [T, width]: rows of the mask and the prefix before it."""
        drop = self._dropout(batch, prefixes.rows)
        mask = self.mask_embedding * self.mask_embedding.numel() ** 0.5
        rows = rows_of(F.pad(prefixes.present, (1, 0), value=True))
        tokens = rows.flat(F.pad(prefixes.tokens + 1, (1, 0)))  # 0 is the mask
        x = torch.cat([mask.unsqueeze(0), items]).index_select(0, tokens)
        places = self.max_length - torch.arange(rows.present.shape[1], device=x.device)
        x = x + self.position_embedding(rows.flat(places.expand_as(rows.present)))
        return drop(self.input_norm(x), rows.indptr, CHOICE + 1), rows, drop

    def _head(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(F.gelu(self.project(x)))
