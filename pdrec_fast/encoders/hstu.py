"""HSTU (Zhai et al., ICML 2024, arXiv:2402.17152)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.checks import check_not_negative
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders.base import dropout_key, positions_like_items, xavier_init
from pdrec_fast.encoders.times import Attend, TimeBuckets, Times, attention
from pdrec_fast.encoders.transformer import TransformerConfig
from pdrec_fast.ops.packed.packed_dropout import packed_dropout
from pdrec_fast.random_keys import ENCODER
from pdrec_fast.reference.packed.biased_attention import bucket_of

Drop = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class HSTUConfig(TransformerConfig):
    """Options of ``HSTU``: those of a Transformer, and of its times.

    Attributes:
        time_buckets: how many kinds of time between two items are told apart; 0 reads no times.
    """

    time_buckets: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "time_buckets")


class HSTU(nn.Module):
    """Gated layers with pointwise attention: without a softmax, the more items match, the more
    comes of it.

    A layer is ``x + f2(LN(A V) ⊙ U)`` with ``U, V, Q, K = split(SiLU(f1(LN(x))))`` and
    ``A_ij = SiLU(Q_i K_j' + p_{i-j} + t_{b(i, j)}) / i`` for j up to i, counted from 1 (eqs. 1 to
    3). p is a bias of the distance; t one of the time between two items, whose bucket is
    ``floor(ln(max(Δ, 1)) / 0.301)`` in the unit of the data's timestamps, at most
    ``time_buckets - 1``.

    From the authors' code come the norm of x, the positions that are added to the embeddings
    (counted from the end here) and the buckets. It divides by the longest sequence instead of i,
    which the norm undoes, and takes the time of an item's successor for i, which nobody knows when
    it recommends: here Δ is the time between the items i and j.

    Dropout of the batch's ``dropout_key``: stream ``ENCODER`` for the embeddings, and
    ``ENCODER + 1 + n`` for block n.

    Args:
        n_items: N, the corpus size.
        config: all options; keyword arguments override single ones.
    """

    def __init__(self, n_items: int, config: HSTUConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = replace(config or HSTUConfig(), **options)
        self.max_length, self.dropout = config.max_length, config.dropout
        self.reads_times = config.time_buckets > 0
        self.times = TimeBuckets("HSTU", config.time_buckets)
        self.item_embedding = nn.Embedding(n_items, config.width, dtype=torch.float32)
        self.position_embedding = nn.Embedding(config.max_length, config.width, dtype=torch.float32)
        self.blocks = nn.ModuleList(
            _Block(config, ENCODER + 1 + number) for number in range(config.blocks)
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
        attend = partial(attention, indptr=batch.indptr, times=self.times(batch), pointwise=True)
        drop = partial(packed_dropout, indptr=batch.indptr, p=self.dropout if key else 0.0, key=key)
        x = drop(self._embedded(batch), stream=ENCODER)
        for block in self.blocks:
            x = block(x, attend, drop)
        return self.norm(x)

    @torch.no_grad()
    def last_states(self, batch: PackedSequences) -> torch.Tensor:
        """``self(batch)[batch.last]`` to rounding, without gradient: [B, width].

        On a CPU and without dropout the last block computes nothing else.
        """
        cpu = batch.items.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if self.training or not cpu or not len(self.blocks):
            states: torch.Tensor = self(batch)
            return states[batch.last]
        x, times = self._embedded(batch), self.times(batch)
        attend = partial(attention, indptr=batch.indptr, times=times, pointwise=True)
        for block in self.blocks[:-1]:
            x = block(x, attend, lambda values, stream: values)
        final = self.blocks[-1]
        assert isinstance(final, _Block)
        return self.norm(final.last_states(x, batch, times))

    def _embedded(self, batch: PackedSequences) -> torch.Tensor:
        """What the first block reads, before dropout: [T, width]."""
        x = self.item_embedding(batch.items) * self.item_embedding.embedding_dim**0.5
        return x + self.position_embedding(batch.positions)


class _Block(nn.Module):
    def __init__(self, config: HSTUConfig, stream: int) -> None:
        super().__init__()
        width, self.heads, self.stream = config.width, config.heads, stream
        self.norm = nn.LayerNorm(width, dtype=torch.float32)
        self.mix = nn.Linear(width, 4 * width, dtype=torch.float32)
        self.attended_norm = nn.LayerNorm(width, dtype=torch.float32)
        self.out = nn.Linear(width, width, dtype=torch.float32)
        self.distance_bias = nn.Parameter(torch.zeros(config.max_length, dtype=torch.float32))
        self.time_bias = None
        if config.time_buckets:
            self.time_bias = nn.Parameter(torch.zeros(config.time_buckets, dtype=torch.float32))

    def forward(self, x: torch.Tensor, attend: Attend, drop: Drop) -> torch.Tensor:
        """Tokens x [T, width]; ``drop(values, stream=...)`` is the dropout of a stream."""
        u, v, q, k = F.silu(self.mix(self.norm(x))).chunk(4, dim=1)
        q, k, v = (part.unflatten(1, (self.heads, -1)) for part in (q, k, v))
        attended = attend(q, k, v, self.distance_bias, self.time_bias).flatten(1)
        return x + self.out(drop(self.attended_norm(attended) * u, stream=self.stream))

    def last_states(self, x: torch.Tensor, batch: PackedSequences, times: Times) -> torch.Tensor:
        """``self(x, ...)[batch.last]`` without dropout, to rounding: [B, width]."""
        last, rows = batch.last, batch.rows
        h = self.norm(x)
        ends, weights = h[last], zip(self.mix.weight.chunk(4), self.mix.bias.chunk(4), strict=True)
        # Gates and queries of the last tokens alone.
        u, v, q, k = (
            F.silu(F.linear(tokens, *of_part))
            for tokens, of_part in zip((ends, h, ends, h), weights, strict=True)
        )
        q, k, v = (part.unflatten(1, (self.heads, -1)) for part in (q, k, v))
        scores = (q[rows] * k).sum(2) + self._last_bias(last, rows, times).unsqueeze(1)
        weighted = F.silu(scores).unsqueeze(2) * v
        attended = weighted.new_zeros(q.shape).index_add_(0, rows, weighted)
        attended = attended.flatten(1) / batch.lengths.unsqueeze(1)
        return x[last] + self.out(self.attended_norm(attended) * u)

    def _last_bias(self, last: torch.Tensor, rows: torch.Tensor, times: Times) -> torch.Tensor:
        """Of every token's score for its sequence's last query, [T]."""
        distance = last[rows] - torch.arange(len(rows), device=rows.device)
        bias = self.distance_bias[distance.clamp_max(len(self.distance_bias) - 1)]
        if self.time_bias is None or times.times is None or times.begins is None:
            return bias
        between = (times.times[last][rows] - times.times).abs()
        return bias + self.time_bias[bucket_of(between, times.begins)]
