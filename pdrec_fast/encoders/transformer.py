"""What encoders on Transformers share: their options, and a block without a causal mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.checks import check_counts, check_depths, check_dropout, check_kinds
from pdrec_fast.encoders.prefixes import RowDropout, Rows


@dataclass(frozen=True)
class TransformerConfig:
    """Options of an encoder on a Transformer.

    Attributes:
        width: of embeddings and states.
        blocks, heads: number of attention blocks, and heads in each.
        max_length: longest sequence; older items are dropped.
        dropout: of embeddings and of what a layer adds.
    """

    width: int = 64
    blocks: int = 2
    heads: int = 2
    max_length: int = 200
    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_kinds(self)
        check_counts(self, "width", "blocks", "heads", "max_length")
        check_depths(self, "blocks")
        check_dropout(self)
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")


class BidirectionalBlock(nn.Module):
    """Attention among all items of a row, then a feed-forward layer of four widths with GELU.

    With ``pre_norm`` a layer is ``x + f(norm(x))``, otherwise ``norm(x + f(x))``, as in Vaswani et
    al. (2017). The dropouts of the two layers take ``stream`` and the one after it.
    """

    def __init__(self, config: TransformerConfig, stream: int, *, pre_norm: bool) -> None:
        super().__init__()
        width = config.width
        self.heads, self.stream, self.pre_norm = config.heads, stream, pre_norm
        self.mix = nn.Linear(width, 3 * width, dtype=torch.float32)
        self.attention_out = nn.Linear(width, width, dtype=torch.float32)
        self.attention_norm = nn.LayerNorm(width, dtype=torch.float32)
        self.hidden = nn.Linear(width, 4 * width, dtype=torch.float32)
        self.forward_out = nn.Linear(4 * width, width, dtype=torch.float32)
        self.forward_norm = nn.LayerNorm(width, dtype=torch.float32)

    def forward(
        self, x: torch.Tensor, rows: Rows, drop: RowDropout, *, only_first: bool = False
    ) -> torch.Tensor:
        """The values x [M, width] of rows; with ``only_first`` what becomes of the first value of
        every row, [P, width]."""
        attended = self._attended(self.attention_norm(x) if self.pre_norm else x, rows, only_first)
        indptr = rows.indptr
        if only_first:
            x, indptr = rows.first(x), torch.arange(indptr.shape[0], device=indptr.device)
        if self.pre_norm:
            x = x + drop(attended, indptr, self.stream)
            return x + drop(self._mapped(self.forward_norm(x)), indptr, self.stream + 1)
        x = self.attention_norm(x + drop(attended, indptr, self.stream))
        return self.forward_norm(x + drop(self._mapped(x), indptr, self.stream + 1))

    def _attended(self, x: torch.Tensor, rows: Rows, only_first: bool) -> torch.Tensor:
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in rows.padded(self.mix(x)).chunk(3, dim=2)
        )
        if only_first:
            q = q[:, :, :1]
        seen = rows.present[:, None, None, :]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        attended = attended.transpose(1, 2).flatten(2)
        return self.attention_out(attended[:, 0] if only_first else rows.flat(attended))

    def _mapped(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_out(F.gelu(self.hidden(x)))


def first_after(
    blocks: nn.ModuleList, x: torch.Tensor, rows: Rows, drop: RowDropout
) -> torch.Tensor:
    """What blocks, one after the other, make of the first value of every row: [P, width]."""
    *earlier, last = blocks
    for block in earlier:
        x = block(x, rows, drop)
    found: torch.Tensor = last(x, rows, drop, only_first=True)
    return found
