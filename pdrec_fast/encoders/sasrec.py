"""SASRec (Kang & McAuley, ICDM 2018) on packed sequences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders.base import xavier_init

_NORM_EPS = 1e-8


class SASRec(nn.Module):
    """Causal self-attention over a user's items; padding does not exist, so none is attended to.

    Positions count from the end: the latest item always has the last position's embedding, in
    training and at inference alike.

    Args:
        n_items: N, the corpus size.
        width: of embeddings and states.
        blocks, heads: number of attention blocks, and heads in each.
        max_length: longest sequence; older items are dropped.
        dropout: of embeddings, attention weights and the feed-forward layers.
    """

    def __init__(
        self,
        n_items: int,
        *,
        width: int = 64,
        blocks: int = 2,
        heads: int = 1,
        max_length: int = 200,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        self.max_length = max_length
        self.item_embedding = nn.Embedding(n_items, width)
        self.position_embedding = nn.Embedding(max_length, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS)
        xavier_init(self)

    def forward(self, batch: PackedSequences) -> torch.Tensor:
        """States after every token of a packed batch: float32 [T, width]."""
        scale = self.item_embedding.embedding_dim**0.5
        x = self.item_embedding(batch.items) * scale + self.position_embedding(batch.positions)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, batch)
        return self.norm(x)


class _Block(nn.Module):
    """Attention whose queries alone are normalised, then a feed-forward layer, as in SASRec."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_dropout = dropout
        self.query_norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.in_weight = nn.Parameter(torch.empty(3 * width, width))  # query, key, value
        self.in_bias = nn.Parameter(torch.zeros(3 * width))
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.bias)
        self.forward_norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, width),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor, batch: PackedSequences) -> torch.Tensor:
        width = x.shape[-1]
        queries = self.query_norm(x)
        q = F.linear(queries, self.in_weight[:width], self.in_bias[:width])
        kv = F.linear(x, self.in_weight[width:], self.in_bias[width:])
        x = self.forward_norm(queries + self.out(self._attend(q, kv, batch)))
        return x + self.feed_forward(x)

    def _attend(self, q: torch.Tensor, kv: torch.Tensor, batch: PackedSequences) -> torch.Tensor:
        """Causal attention within every sequence: one dense call per group of equal lengths."""
        width = q.shape[-1]
        dropout = self.attention_dropout if self.training else 0.0
        outputs = [q[:0]]  # so that a batch without sequences needs no case of its own
        for start, n, length in batch.groups:
            tokens = slice(start, start + n * length)
            queries = q[tokens].view(n, length, self.heads, -1).transpose(1, 2)
            keys_values = kv[tokens].view(n, length, 2, self.heads, -1)
            keys, values = keys_values.permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(
                queries, keys, values, is_causal=True, dropout_p=dropout
            )
            outputs.append(attended.transpose(1, 2).reshape(n * length, width))
        return torch.cat(outputs)
