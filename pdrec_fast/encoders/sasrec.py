"""SASRec (Kang & McAuley, ICDM 2018) on packed sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.checks import (
    check_choices,
    check_counts,
    check_depths,
    check_dropout,
    check_kinds,
    check_not_negative,
)
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders.base import dropout_key, positions_like_items, xavier_init
from pdrec_fast.operands import SasrecBlock
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed._triton import IMPLS
from pdrec_fast.ops.packed.attention_pooling import attention_pooling
from pdrec_fast.ops.packed.packed_dropout import packed_dropout
from pdrec_fast.ops.packed.sasrec_block import sasrec_block
from pdrec_fast.random_keys import ENCODER
from pdrec_fast.reference.packed.sasrec_block import NORM_EPS


@dataclass(frozen=True)
class SASRecConfig:
    """Options of ``SASRec``.

    Attributes:
        width: of embeddings and states.
        blocks, heads: number of attention blocks, and heads in each.
        max_length: longest sequence; older items are dropped.
        dropout: of embeddings, attention weights and the feed-forward layers.
        positions: ``"xavier"`` draws their embedding as all weights are drawn; ``"items"`` then
            scales it to the items' (``positions_like_items``), which learns sooner of many items.
        impl: of ``packed_attention`` and ``packed_dropout``; with ``"auto"`` and ``"cpp"`` a block
            is one operation where it can be, see ``sasrec_block``.
    """

    width: int = 64
    blocks: int = 2
    heads: int = 1
    max_length: int = 200
    dropout: float = 0.2
    positions: Literal["xavier", "items"] = "xavier"
    impl: str = "auto"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_counts(self, "width", "heads", "max_length")
        check_depths(self, "blocks")
        check_not_negative(self, "blocks")
        check_dropout(self)
        check_choices(self, positions=("xavier", "items"), impl=IMPLS)
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")


class SASRec(nn.Module):
    """Causal self-attention over a user's items; padding does not exist, so none is attended to.

    Positions count from the end: the latest item always has the last position's embedding, in
    training and at inference alike.

    The random numbers of dropout are those of the batch's ``dropout_key``. Streams: ``ENCODER`` for
    the embeddings; in block n, ``ENCODER + 1 + 3 n`` for the attention weights and the next two for
    the feed-forward layers.

    Args:
        n_items: N, the corpus size.
        config: all options; keyword arguments override single ones.
    """

    def __init__(self, n_items: int, config: SASRecConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = replace(config or SASRecConfig(), **options)
        self.max_length, self.dropout, self.impl = config.max_length, config.dropout, config.impl
        self.item_embedding = nn.Embedding(n_items, config.width, dtype=torch.float32)
        self.position_embedding = nn.Embedding(config.max_length, config.width, dtype=torch.float32)
        self.blocks = nn.ModuleList(
            _Block(config, ENCODER + 1 + 3 * number) for number in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS, dtype=torch.float32)
        xavier_init(self)
        if config.positions == "items":
            positions_like_items(self)

    def forward(self, batch: PackedSequences) -> torch.Tensor:
        """States after every token of a packed batch: float32 [T, width]."""
        return self._states(self.item_embedding(batch.items), batch)

    def _states(self, items: torch.Tensor, batch: PackedSequences) -> torch.Tensor:
        """States [T, width] from the embeddings of the batch's items [T, width]."""
        key = dropout_key(batch) if self.training and self.dropout else None
        scale = self.item_embedding.embedding_dim**0.5
        x = items * scale + self.position_embedding(batch.positions)
        if key is not None:
            x = packed_dropout(
                x, batch.indptr, self.dropout, key=key, stream=ENCODER, impl=self.impl
            )
        for block in self.blocks:
            x = block(x, batch.indptr, key)
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
        x = self.item_embedding(batch.items).mul_(self.item_embedding.embedding_dim**0.5)
        x += self.position_embedding(batch.positions)
        for block in self.blocks[:-1]:
            x = block(x, batch.indptr, None)
        final = self.blocks[-1]
        assert isinstance(final, _Block)
        return self.norm(final.last_states(x, batch))


class _Block(nn.Module):
    """Attention whose queries alone are normalised, then a feed-forward layer, as in SASRec."""

    def __init__(self, config: SASRecConfig, stream: int) -> None:
        super().__init__()
        width, self.heads, self.dropout = config.width, config.heads, config.dropout
        self.stream, self.impl = stream, config.impl
        self.query_norm = nn.LayerNorm(width, eps=NORM_EPS, dtype=torch.float32)
        # query, key, value
        self.in_weight = nn.Parameter(torch.empty(3 * width, width, dtype=torch.float32))
        self.in_bias = nn.Parameter(torch.zeros(3 * width, dtype=torch.float32))
        self.out = nn.Linear(width, width, dtype=torch.float32)
        nn.init.zeros_(self.out.bias)
        self.forward_norm = nn.LayerNorm(width, eps=NORM_EPS, dtype=torch.float32)
        self.hidden = nn.Linear(width, width, dtype=torch.float32)
        self.forward_out = nn.Linear(width, width, dtype=torch.float32)

    def forward(
        self, x: torch.Tensor, indptr: torch.Tensor, key: DropoutKey | None
    ) -> torch.Tensor:
        """Dropout where there is a key."""
        return sasrec_block(
            x,
            indptr,
            self.parameters_of_block(),
            heads=self.heads,
            dropout=0.0 if key is None else self.dropout,
            key=key,
            stream=self.stream,
            # With "cpp" too the block is in layers where autocast asks for half precision.
            impl="auto" if self.impl in ("auto", "cpp") else "layers",
            parts=self.impl,
        )

    def last_states(self, x: torch.Tensor, batch: PackedSequences) -> torch.Tensor:
        """``self(x, indptr, None)[batch.last]`` to rounding: [B, width]."""
        heads, width = self.heads, x.shape[1]
        # [heads, width / heads, width] and [heads, width / heads] each.
        q_weight, k_weight, v_weight = self.in_weight.view(3, heads, -1, width).unbind()
        q_bias, _, v_bias = self.in_bias.view(3, heads, -1).unbind()
        queries = self.query_norm(x[batch.last])
        q = torch.einsum("bd,hed->bhe", queries, q_weight) + q_bias
        # The keys' bias adds the same to all of a query's scores, which their softmax leaves out.
        pooled = attention_pooling(
            x,
            batch.indptr,
            torch.einsum("bhe,hed->bhd", q * (heads / width) ** 0.5, k_weight),
            impl="reference" if self.impl == "reference" else "auto",
        )
        attended = torch.einsum("bhd,hed->bhe", pooled, v_weight) + v_bias
        x = self.forward_norm(queries + self.out(attended.flatten(1)))
        return x + self.forward_out(F.relu(self.hidden(x)))

    def parameters_of_block(self) -> SasrecBlock:
        return SasrecBlock(
            self.query_norm.weight,
            self.query_norm.bias,
            self.in_weight,
            self.in_bias,
            self.out.weight,
            self.out.bias,
            self.forward_norm.weight,
            self.forward_norm.bias,
            self.hidden.weight,
            self.hidden.bias,
            self.forward_out.weight,
            self.forward_out.bias,
        )
