"""LiGR blocks (Borisyuk et al., 2025, arXiv:2502.03417), as in eSASRec (arXiv:2508.06450)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.checks import check_counts, check_not_negative
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders.base import dropout_key, positions_like_items, xavier_init
from pdrec_fast.encoders.times import Attend, TimeBuckets, attention
from pdrec_fast.encoders.transformer import TransformerConfig
from pdrec_fast.ops.packed.packed_dropout import packed_dropout
from pdrec_fast.random_keys import ENCODER

Drop = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class LiGRConfig(TransformerConfig):
    """Options of ``LiGR``: those of a Transformer, whose dropout also acts on attention weights.

    Attributes:
        expansion: of the feed-forward layers.
        time_buckets: how many kinds of time between two items are told apart, as in ``HSTU``; 0
            reads no times.
    """

    expansion: int = 4
    time_buckets: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "expansion")
        check_not_negative(self, "time_buckets")


class LiGR(nn.Module):
    """A causal Transformer whose layers are gated: ``x + σ(x G + g) ⊙ f(LN(x))``.

    f is attention, then a SwiGLU layer ``W2 (SiLU(W1 x) ⊙ W3 x)`` (Shazeer, 2020). The gate reads x
    before its normalisation, as in eSASRec's code. With ``loss=shared_softmax`` this is eSASRec.
    LiGR's joint attention to the ranked items is left out: items are ranked one by one here.
    With ``time_buckets`` each block adds a bias of the time between two items to its scores, whose
    buckets are those of ``HSTU``; neither paper has it.

    Positions count from the end. The random numbers of dropout are those of the batch's
    ``dropout_key``: stream ``ENCODER`` for the embeddings, and in block n those from
    ``ENCODER + 1 + 4 n`` on for attention weights, attention, hidden and feed-forward layer.

    Args:
        n_items: N, the corpus size.
        config: all options; keyword arguments override single ones.
    """

    def __init__(self, n_items: int, config: LiGRConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = replace(config or LiGRConfig(), **options)
        self.max_length, self.dropout = config.max_length, config.dropout
        self.reads_times = config.time_buckets > 0
        self.times = TimeBuckets("LiGR", config.time_buckets)
        self.item_embedding = nn.Embedding(n_items, config.width, dtype=torch.float32)
        self.position_embedding = nn.Embedding(config.max_length, config.width, dtype=torch.float32)
        self.blocks = nn.ModuleList(
            _Block(config, ENCODER + 1 + 4 * number) for number in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.width, dtype=torch.float32)
        xavier_init(self)
        positions_like_items(self)

    def forward(self, batch: PackedSequences) -> torch.Tensor:
        """States after every token of a packed batch: float32 [T, width].

        Raises:
            ValueError: the batch has no times, with ``time_buckets``.
        """
        key = dropout_key(batch) if self.training and self.dropout else None
        x = self.item_embedding(batch.items) * self.item_embedding.embedding_dim**0.5
        x = x + self.position_embedding(batch.positions)
        if key is not None:
            x = packed_dropout(x, batch.indptr, self.dropout, key=key, stream=ENCODER)
        rate, times = 0.0 if key is None else self.dropout, self.times(batch)
        for block in self.blocks:
            given: dict[str, Any] = {"key": key, "stream": block.stream}
            attend = partial(attention, indptr=batch.indptr, times=times, dropout=rate, **given)
            x = block(x, attend, partial(_dropped, indptr=batch.indptr, p=rate, **given))
        return self.norm(x)


def _dropped(values: torch.Tensor, number: int, *, stream: int, **given: Any) -> torch.Tensor:
    """Dropout ``number`` of a block whose streams begin with ``stream``."""
    return packed_dropout(values, stream=stream + number, **given)


class _Block(nn.Module):
    def __init__(self, config: LiGRConfig, stream: int) -> None:
        super().__init__()
        width, self.heads, self.stream = config.width, config.heads, stream
        self.attention_norm = nn.LayerNorm(width, dtype=torch.float32)
        self.attention_gate = nn.Linear(width, width, dtype=torch.float32)
        self.mix = nn.Linear(width, 3 * width, dtype=torch.float32)
        self.attention_out = nn.Linear(width, width, dtype=torch.float32)
        self.forward_norm = nn.LayerNorm(width, dtype=torch.float32)
        self.forward_gate = nn.Linear(width, width, dtype=torch.float32)
        hidden = config.expansion * width
        self.gated = nn.Linear(width, 2 * hidden, bias=False, dtype=torch.float32)
        self.forward_out = nn.Linear(hidden, width, bias=False, dtype=torch.float32)
        self.time_bias = None
        if config.time_buckets:
            self.time_bias = nn.Parameter(torch.zeros(config.time_buckets, dtype=torch.float32))

    def forward(self, x: torch.Tensor, attend: Attend, drop: Drop) -> torch.Tensor:
        """Tokens x [T, width]; ``attend`` is causal attention, and ``drop(values, number)`` the
        dropout of stream ``self.stream + number``."""
        mixed = self.mix(self.attention_norm(x)).unflatten(1, (3 * self.heads, -1))
        q, k, v = mixed.chunk(3, dim=1)
        attended = attend(q, k, v, None, self.time_bias).flatten(1)
        x = x + torch.sigmoid(self.attention_gate(x)) * drop(self.attention_out(attended), 1)
        gate, hidden = self.gated(self.forward_norm(x)).chunk(2, dim=1)
        hidden = drop(F.silu(gate) * hidden, 2)
        return x + torch.sigmoid(self.forward_gate(x)) * drop(self.forward_out(hidden), 3)
