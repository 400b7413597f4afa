"""Encoders in plain PyTorch on padded ids: the state after the latest item, in traceable steps.

Every class takes an encoder with its weights. Its ``forward(items, keep, back, times)`` gives the
states [B, width] for what ``padded.remaining`` says of padded ids; of a history without items they
are whatever they are. The times [B, L] may be None where the encoder reads none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.encoders import (
    HSTU,
    BERT4Rec,
    Caser,
    DiffRecStar,
    DiffuRec,
    GRU4Rec,
    LiGR,
    MLP4Rec,
    PaddedEncoder,
    SASRec,
)
from pdrec_fast.encoders.prefixes import PrefixModel
from pdrec_fast.errors import ExportError
from pdrec_fast.export.padded import FIRST_ID, latest
from pdrec_fast.reference.packed.sasrec_block import sasrec_block

Attend = Callable[..., torch.Tensor]


class _Causal(nn.Module):
    """An encoder of causal blocks. A subclass says what one block makes of tokens."""

    pointwise = False  # attention, see ``biased_attention``
    begins: torch.Tensor  # of the buckets of time

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        if self.reads_times:
            self.register_buffer("begins", encoder.times.begins.clone())

    @property
    def reads_times(self) -> bool:
        return bool(getattr(self.encoder, "reads_times", False))

    def forward(
        self,
        items: torch.Tensor,
        keep: torch.Tensor,
        back: torch.Tensor,
        times: torch.Tensor | None,
    ) -> torch.Tensor:
        """See the module."""
        encoder = self.encoder
        ids, lengths = latest(items, keep, back, encoder.max_length)
        n_rows, width = ids.shape
        place = torch.arange(width, device=ids.device)
        positions = encoder.max_length - lengths[:, None] + place
        positions = positions.clamp(0, encoder.max_length - 1)  # padding has none
        embedded = encoder.item_embedding((ids - FIRST_ID).clamp_min(0))
        scale = encoder.item_embedding.embedding_dim**0.5
        x = (embedded * scale + encoder.position_embedding(positions)).flatten(0, 1)
        distance = place[:, None] - place
        later = distance < 0  # padding stands after the items, so it is later too
        buckets = None
        if times is not None and self.reads_times:
            times, _ = latest(torch.where(keep, times, 0.0), keep, back, encoder.max_length)
            buckets = _buckets((times[:, :, None] - times[:, None]).abs(), self.begins)

        def attend(
            q: torch.Tensor,
            k: torch.Tensor,
            v: torch.Tensor,
            of_distance: torch.Tensor | None = None,
            of_time: torch.Tensor | None = None,
        ) -> torch.Tensor:
            q, k, v = (part.unflatten(0, (n_rows, width)).transpose(1, 2) for part in (q, k, v))
            scores = q @ k.mT / (1.0 if self.pointwise else math.sqrt(q.shape[-1]))
            if of_distance is not None:
                scores = scores + of_distance[distance.clamp(0, of_distance.shape[0] - 1)]
            if of_time is not None:
                scores = scores + of_time[buckets][:, None]
            if self.pointwise:
                weights = F.silu(scores).masked_fill(later, 0.0) / (place[:, None] + 1)
            else:
                weights = scores.masked_fill(later, -torch.inf).softmax(-1)
            return (weights @ v).transpose(1, 2).flatten(0, 1)

        for block in encoder.blocks:
            x = self.block(block, x, attend)
        return encoder.norm(_at_last(x.unflatten(0, (n_rows, width)), lengths))

    def block(self, block: Any, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Tokens [T, width] after one block."""
        raise NotImplementedError


class PlainSASRec(_Causal):
    """``SASRec``, and ``CL4SRec``, whose scores are those of a SASRec."""

    def block(self, block: Any, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        return sasrec_block(x, block.parameters_of_block(), block.heads, attend, lambda t, _: t)


class PlainLiGR(_Causal):
    """``LiGR``."""

    def block(self, block: Any, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        after: torch.Tensor = block(x, attend, lambda t, _: t)
        return after


class PlainHSTU(_Causal):
    """``HSTU``."""

    pointwise = True

    def block(self, block: Any, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        after: torch.Tensor = block(x, attend, lambda t, stream: t)
        return after


class PlainGRU4Rec(nn.Module):
    """``GRU4Rec``, one place after the other."""

    def __init__(self, encoder: GRU4Rec) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        items: torch.Tensor,
        keep: torch.Tensor,
        back: torch.Tensor,
        times: torch.Tensor | None,
    ) -> torch.Tensor:
        """See the module."""
        # A loop that a traced program keeps as one; torch.gru would be unrolled to a fixed length.
        # This is where torch's documentation takes it from: scan has no public name yet.
        from torch._higher_order_ops import scan

        encoder = self.encoder
        ids, _ = latest(items, keep, back, encoder.max_length)
        x = encoder.item_embedding((ids - FIRST_ID).clamp_min(0))
        x = x * encoder.item_embedding.embedding_dim**0.5
        layers: list[Any] = list(encoder.layers)
        gates = F.linear(x, layers[0].weight_ih_l0, layers[0].bias_ih_l0)
        there = (ids >= FIRST_ID)[..., None]

        def step(states: list[torch.Tensor], place: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
            below, is_item = place
            new: list[torch.Tensor] = []
            for layer, state in zip(layers, states, strict=True):
                if new:
                    below = F.linear(new[-1], layer.weight_ih_l0, layer.bias_ih_l0)
                new.append(torch.where(is_item, _gru(layer, below, state), state))
            return new, states[0].new_zeros(0)

        start = [x.new_zeros((x.shape[0], layer.hidden_size)) for layer in layers]
        in_time = gates.transpose(0, 1).contiguous(), there.transpose(0, 1).contiguous()
        states, _ = scan(step, start, in_time)
        out: torch.Tensor = encoder.out(states[-1])
        return out


def _gru(layer: Any, gates: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """The next state of ``nn.GRU``, from what the input adds to its three gates."""
    own = F.linear(state, layer.weight_hh_l0, layer.bias_hh_l0)
    reset, update, candidate = gates.chunk(3, -1)
    own_reset, own_update, own_candidate = own.chunk(3, -1)
    candidate = torch.tanh(candidate + torch.sigmoid(reset + own_reset) * own_candidate)
    return candidate + torch.sigmoid(update + own_update) * (state - candidate)


class PlainPadded(nn.Module):
    """The model within a ``PaddedEncoder``, on ids of its ``max_length``."""

    def __init__(self, encoder: PaddedEncoder) -> None:
        super().__init__()
        self.module, self.max_length, self.side = encoder.module, encoder.max_length, encoder.side

    def forward(
        self,
        items: torch.Tensor,
        keep: torch.Tensor,
        back: torch.Tensor,
        times: torch.Tensor | None,
    ) -> torch.Tensor:
        """See the module."""
        keep = keep & (back < self.max_length)
        lengths = keep.sum(1)
        first = lengths if self.side == "right" else torch.full_like(lengths, self.max_length)
        columns = torch.where(keep, first[:, None] - 1 - back, self.max_length)
        ids = items.new_zeros((items.shape[0], self.max_length + 1))
        ids = ids.scatter(1, columns, items * keep)[:, :-1]
        return _at_last(self.module(ids), first)


class _OnTheRight(NamedTuple):
    """Histories of S places each, the items last, in place of packed sequences: what encoders read
    that make rows of prefixes. Where a row's items begin, ``indptr`` says."""

    items: torch.Tensor
    indptr: torch.Tensor
    rows: torch.Tensor
    last: torch.Tensor
    host_lengths: np.ndarray


class PlainPrefixes(nn.Module):
    """``Caser`` and every ``PrefixModel``, on ``max_length`` places."""

    def __init__(self, encoder: Caser | PrefixModel) -> None:
        super().__init__()
        self.encoder: Any = encoder

    def forward(
        self,
        items: torch.Tensor,
        keep: torch.Tensor,
        back: torch.Tensor,
        times: torch.Tensor | None,
    ) -> torch.Tensor:
        """See the module."""
        n_places = self.encoder.max_length
        keep = keep & (back < n_places)
        columns = torch.where(keep, n_places - 1 - back, n_places)
        ids = items.new_zeros((items.shape[0], n_places + 1))
        ids = ids.scatter(1, columns, items * keep)[:, :-1]
        row = torch.arange(items.shape[0], device=items.device)
        batch: Any = _OnTheRight(
            (ids - FIRST_ID).clamp_min(0).flatten(),
            # An empty row has one item: whatever comes of it counts for nothing.
            (row + 1) * n_places - keep.sum(1).clamp_min(1),
            row[:, None].expand(-1, n_places).flatten(),
            (row + 1) * n_places - 1,
            np.array([n_places]),
        )
        states: torch.Tensor = self.encoder.prefix_states(batch, batch.last)
        return states


def _buckets(between: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
    """``bucket_of`` by halving: an ONNX program's ``bucketize`` compares with every beginning."""
    found = torch.zeros_like(between, dtype=torch.int64)
    n_buckets = begins.shape[0]
    for level in reversed(range((n_buckets - 1).bit_length())):
        tried = found + (1 << level)
        there = (tried < n_buckets) & (between >= begins[tried.clamp_max(n_buckets - 1)])
        found = torch.where(there, tried, found)
    return found


def _at_last(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The states [B, d] of [B, W, d] at the last one of the first ``lengths`` places."""
    last = (lengths - 1).clamp_min(0)[:, None, None]
    return states.gather(1, last.expand(-1, 1, states.shape[2]))[:, 0]


_PLAIN: tuple[tuple[type[nn.Module], Callable[[Any], nn.Module]], ...] = (
    (SASRec, PlainSASRec),
    (GRU4Rec, PlainGRU4Rec),
    (LiGR, PlainLiGR),
    (HSTU, PlainHSTU),
    *((kind, PlainPrefixes) for kind in (Caser, MLP4Rec, BERT4Rec, DiffuRec, DiffRecStar)),
    (PaddedEncoder, PlainPadded),
)


def plain_encoder(encoder: nn.Module, name: str) -> nn.Module:
    """The encoder on padded ids.

    Raises:
        ExportError: it is none of this package's, nor a ``PaddedEncoder``.
    """
    # By type, not isinstance: a subclass may have another forward.
    for kind, plain in _PLAIN:
        if isinstance(encoder, kind) and type(encoder).forward is kind.forward:
            made: nn.Module = plain(encoder)
            return made
    raise ExportError(
        f"the encoder {name!r} ({type(encoder).__name__}) reads packed sequences, which no traced "
        "program can: write it on padded ids and wrap it in PaddedEncoder, or serve the saved "
        "model itself (PDRec.load)"
    )
