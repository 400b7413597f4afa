"""Encoders that learn to find the next item in noise: what DiffuRec and DiffRec* share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.checks import check_counts
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders.base import dropout_key
from pdrec_fast.encoders.prefixes import (
    CHOICE,
    PrefixModel,
    RowDropout,
    Rows,
    longest,
    prefixes_of,
    rows_of,
)
from pdrec_fast.encoders.transformer import BidirectionalBlock, TransformerConfig
from pdrec_fast.reference.counter_rng import bounded, philox4x32

NOISE, INPUTS = CHOICE + 1, CHOICE + 2  # the streams after that of the choice
_BLOCKS = CHOICE + 4
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class DiffusedTargetConfig(TransformerConfig):
    """Options of an encoder that diffuses its targets.

    Attributes:
        max_length: longest sequence; older items are dropped.
        prefixes: next items learned from, of every sequence in every epoch.
        steps: T, of the diffusion.
        scoring_steps: of them, how many are gone back through when items are scored.
    """

    max_length: int = 50
    prefixes: int = 8
    steps: int = 32
    scoring_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "prefixes", "steps", "scoring_steps")
        if self.scoring_steps > self.steps:
            raise ValueError(
                f"scoring_steps={self.scoring_steps} must be at most steps={self.steps}"
            )


class Seen(NamedTuple):
    """What a target's noise is taken off with.

    Attributes:
        items: [M, width], the items of every prefix, the latest first.
        rows: where they lie.
        drop: dropout of the rows.
        spread: [M] standard normals, zeros when items are scored.
    """

    items: torch.Tensor
    rows: Rows
    drop: RowDropout
    spread: torch.Tensor


class DiffusedTarget(PrefixModel):
    """The target's embedding x_0 is drowned in noise, ``x_s = √ᾱ_s x_0 + √(1 - ᾱ_s) ε`` (Ho et al.,
    2020), and found again with the help of the prefix; what is found is the state that is ranked.

    x_0 is scaled to a mean square of 1, that of ε, as embeddings have no scale of their own where
    only their directions are ranked. β rises linearly from 0.1/T to 20/T, Ho's schedule in T steps
    (at most 0.999). In training s is uniform and ε new for every prefix and epoch; both follow from
    the batch's ``dropout_key``, the stream being ``NOISE``. No item is drawn: when items are scored
    x_T is one normal vector that is kept with the weights, the same for everybody, and the steps
    back are those of DDIM (Song et al., 2021, eq. 12, without noise), evenly spaced.

    A subclass has ``denoised``.
    """

    signal: torch.Tensor
    start: torch.Tensor

    def __init__(self, n_items: int, config: DiffusedTargetConfig, *, pre_norm: bool) -> None:
        super().__init__()
        width, steps = config.width, config.steps
        self.max_length, self.dropout = config.max_length, config.dropout
        self.prefixes, self.steps = config.prefixes, steps
        self.scoring_steps = config.scoring_steps
        self.item_embedding = nn.Embedding(n_items, width, dtype=torch.float32)
        # Place 0 is the target's.
        self.position_embedding = nn.Embedding(config.max_length + 1, width, dtype=torch.float32)
        self.input_norm = nn.LayerNorm(width, dtype=torch.float32)
        self.step_map = nn.Sequential(
            nn.Linear(width, 4 * width, dtype=torch.float32),
            nn.SiLU(),
            nn.Linear(4 * width, width, dtype=torch.float32),
        )
        self.blocks = nn.ModuleList(
            BidirectionalBlock(config, _BLOCKS + 2 * number, pre_norm=pre_norm)
            for number in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width, dtype=torch.float32)
        rates = torch.linspace(0.1, 20.0, steps, dtype=torch.float64).div(steps).clamp_max(0.999)
        signal = torch.cat([torch.ones(1, dtype=torch.float64), (1 - rates).cumprod(0)])
        self.register_buffer("signal", signal.float(), persistent=False)  # ᾱ_0 .. ᾱ_T
        self.register_buffer("start", nn.init.normal_(torch.empty(width, dtype=torch.float32)))

    def denoised(self, seen: Seen, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """x_0 as it is guessed from x [P, width] at these steps, int64 [P]: [P, width]."""
        raise NotImplementedError

    def prefix_states(self, batch: PackedSequences, tokens: torch.Tensor) -> torch.Tensor:
        """What the noise of scoring becomes after these tokens: [P, width]."""
        seen = self._seen(batch, tokens)
        x = self.start.expand(tokens.shape[0], -1)
        count = self.scoring_steps
        stops = [-(-self.steps * left // count) for left in range(count, -1, -1)]
        for now, then in pairwise(stops):
            state = self.denoised(seen, x, torch.full_like(tokens, now))
            signal, left = self.signal[now], self.signal[then]
            guess = unit_scale(state)
            noise = (x - signal.sqrt() * guess) / (1 - signal).sqrt()
            x = left.sqrt() * guess + (1 - left).sqrt() * noise
        return state

    def training_states(
        self, batch: PackedSequences, tokens: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """What is found of the targets, each in noise of its own: [P, width]."""
        steps, normals = self._draws(batch, tokens)
        noise, spread = normals.split([self.start.numel(), longest(batch)], dim=1)
        seen = self._seen(batch, tokens, spread)
        signal = self.signal[steps].unsqueeze(1)
        target = unit_scale(self.item_embedding(targets))
        return self.denoised(seen, signal.sqrt() * target + (1 - signal).sqrt() * noise, steps)

    def _seen(
        self, batch: PackedSequences, tokens: torch.Tensor, spread: torch.Tensor | None = None
    ) -> Seen:
        prefixes = prefixes_of(batch, tokens, longest(batch))
        rows = rows_of(prefixes.present)
        drop = self._dropout(batch, prefixes.rows)
        x = self._embedded(batch).index_select(0, rows.flat(prefixes.tokens))
        places = 1 + torch.arange(prefixes.tokens.shape[1], device=x.device)
        x = x + self.position_embedding(rows.flat(places.expand_as(prefixes.tokens)))
        x = drop(self.input_norm(x), rows.indptr, INPUTS)
        return Seen(x, rows, drop, x.new_zeros(x.shape[0]) if spread is None else rows.flat(spread))

    def _mapped_steps(self, steps: torch.Tensor) -> torch.Tensor:
        """Vectors of steps [P]: sines and cosines, then two layers."""
        half = (self.start.numel() + 1) // 2
        rates = torch.arange(half, device=steps.device).to(self.start.dtype)
        angles = steps.unsqueeze(1) * torch.exp(rates * (-math.log(10_000) / half))
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)[:, : self.start.numel()]
        mapped: torch.Tensor = self.step_map(waves)
        return mapped

    def _draws(
        self, batch: PackedSequences, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A step for each prefix, int64 [P], and width + L standard normals, float [P, ...].

        Of the blocks of four words that a user has, a prefix has its own, by how far its end lies
        from the sequence's: one word for the step, two for every two normals (Box and Muller).
        """
        key, rows = dropout_key(batch), batch.rows.index_select(0, tokens)
        n_normals = self.start.numel() + longest(batch)
        n_blocks = 1 + -(-n_normals // 4)
        stride = 1 + -(-(self.start.numel() + self.max_length) // 4)
        back = batch.last.index_select(0, rows) - tokens
        counter = tokens.new_empty((len(tokens), n_blocks, 4))
        blocks = torch.arange(n_blocks, device=tokens.device)
        counter[..., 0] = back.unsqueeze(1) * stride + blocks
        counter[..., 1] = key.users.index_select(0, rows).unsqueeze(1)
        counter[..., 2], counter[..., 3] = key.epoch, NOISE
        words = philox4x32(counter, (key.seed & _WORD, key.seed >> 32)).flatten(1)
        uniform = ((words[:, 4:] >> 8).double() + 0.5) * 2**-24
        radius, angle = uniform.unflatten(1, (-1, 2)).unbind(2)
        radius, angle = (-2 * radius.log()).sqrt(), 2 * math.pi * angle
        normals = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2).flatten(1)
        return 1 + bounded(words[:, 0], self.steps), normals[:, :n_normals].to(self.start.dtype)


def unit_scale(x: torch.Tensor) -> torch.Tensor:
    """Vectors [P, width] with a mean square of 1 over their entries."""
    return F.normalize(x, dim=1) * x.shape[1] ** 0.5
