"""HSTU (Zhai et al., ICML 2024, arXiv:2402.17152)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.checks import check_integers, check_not_negative
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders.base import dropout_key, positions_like_items, xavier_init
from pdrec_fast.encoders.prefixes import in_parts, longest
from pdrec_fast.encoders.transformer import TransformerConfig
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed.packed_dropout import packed_dropout
from pdrec_fast.random_keys import ENCODER

_BUCKET = 0.301  # a bucket of time ends at e**0.301 = 1.35 times its beginning


@dataclass(frozen=True)
class HSTUConfig(TransformerConfig):
    """Options of ``HSTU``: those of a Transformer, and of its times.

    Attributes:
        time_buckets: how many kinds of time between two items are told apart; 0 reads no times.
    """

    time_buckets: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integers(self, "time_buckets")
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

    recordable = False

    def __init__(self, n_items: int, config: HSTUConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = replace(config or HSTUConfig(), **options)
        self.max_length, self.dropout = config.max_length, config.dropout
        self.time_buckets, self.reads_times = config.time_buckets, config.time_buckets > 0
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
        x = self.item_embedding(batch.items) * self.item_embedding.embedding_dim**0.5
        x = x + self.position_embedding(batch.positions)
        if key is not None:
            x = packed_dropout(x, batch.indptr, self.dropout, key=key, stream=ENCODER)
        rows = batch.rows
        places = rows, torch.arange(batch.n_tokens, device=rows.device) - batch.indptr[rows]
        buckets = self._buckets(batch, places) if self.reads_times else None
        for block in self.blocks:
            x = block(x, batch, places, buckets, key)
        return self.norm(x)

    @torch.no_grad()
    def last_states(self, batch: PackedSequences) -> torch.Tensor:
        """``self(batch)[batch.last]`` to rounding, without gradient: [B, width]."""
        return in_parts(lambda part: self(part)[part.last], batch)

    def _buckets(
        self, batch: PackedSequences, places: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """The kind of time between any two items of a sequence, int64 [B, L, L]."""
        if batch.times is None:
            raise ValueError(
                "HSTU reads the time of every item, and here are none: bring data with timestamps "
                "(a history with times=), or train it with encoder.time_buckets=0"
            )
        times = batch.times.new_zeros((len(batch), longest(batch))).index_put(places, batch.times)
        between = (times.unsqueeze(2) - times.unsqueeze(1)).abs().clamp_min(1)
        return (between.log() / _BUCKET).long().clamp_max(self.time_buckets - 1)


class _Block(nn.Module):
    def __init__(self, config: HSTUConfig, stream: int) -> None:
        super().__init__()
        width, self.heads, self.dropout = config.width, config.heads, config.dropout
        self.stream = stream
        self.norm = nn.LayerNorm(width, dtype=torch.float32)
        self.mix = nn.Linear(width, 4 * width, dtype=torch.float32)
        self.attended_norm = nn.LayerNorm(width, dtype=torch.float32)
        self.out = nn.Linear(width, width, dtype=torch.float32)
        self.distance_bias = nn.Parameter(torch.zeros(config.max_length, dtype=torch.float32))
        if config.time_buckets:
            self.time_bias = nn.Parameter(torch.zeros(config.time_buckets, dtype=torch.float32))

    def forward(
        self,
        x: torch.Tensor,
        batch: PackedSequences,
        places: tuple[torch.Tensor, torch.Tensor],
        buckets: torch.Tensor | None,
        key: DropoutKey | None,
    ) -> torch.Tensor:
        """Tokens x [T, width], each at its row and column; dropout where there is a key."""
        u, v, q, k = F.silu(self.mix(self.norm(x))).chunk(4, dim=1)
        shape = len(batch), longest(batch), x.shape[1]
        q, k, v = (
            part.new_zeros(shape).index_put(places, part).unflatten(2, (self.heads, -1))
            for part in (q, k, v)
        )
        order = torch.arange(shape[1], device=x.device)
        distance = order.unsqueeze(1) - order
        bias = _looked_up(self.distance_bias, distance.clamp_min(0))
        if buckets is not None:
            bias = bias + _looked_up(self.time_bias, buckets).unsqueeze(1)
        weights = F.silu(torch.einsum("bihe,bjhe->bhij", q, k) + bias)
        weights = weights.masked_fill(distance < 0, 0.0) / (order + 1).unsqueeze(1)
        attended = torch.einsum("bhij,bjhe->bihe", weights, v).flatten(2)[places]
        mixed = self.attended_norm(attended) * u
        if key is not None:
            mixed = packed_dropout(mixed, batch.indptr, self.dropout, key=key, stream=self.stream)
        return x + self.out(mixed)


def _looked_up(values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """``values[indices]``, whose gradient does not depend on the number of threads."""
    return F.embedding(indices, values.unsqueeze(1)).squeeze(-1)
