"""What encoders with biased attention share: buckets of the time between two items."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.operands import AttentionBiases
from pdrec_fast.ops.packed.biased_attention import biased_attention

_BUCKET = 0.301  # a bucket of time ends at e**0.301 = 1.35 times its beginning


class Times(NamedTuple):
    """The last operands of ``AttentionBiases``; none where no times are read."""

    times: torch.Tensor | None = None
    begins: torch.Tensor | None = None


# Of q, k and v [T, heads, e] with biases of distance and of time, either may be None.
Attend = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None],
    torch.Tensor,
]


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    distance: torch.Tensor | None,
    time: torch.Tensor | None,
    *,
    times: Times,
    **options: Any,
) -> torch.Tensor:
    """``biased_attention`` with biases by name."""
    return biased_attention(q, k, v, biases=AttentionBiases(distance, time, *times), **options)


def bucket_begins(n_buckets: int) -> torch.Tensor:
    """Where the buckets ``floor(ln(max(Δ, 1)) / 0.301)`` of a time Δ begin: float64 [n_buckets].

    The first begins at 0 and the last never ends. One that no number reaches begins at infinity.
    """
    most = math.log(torch.finfo(torch.float64).max)
    exponents = [_BUCKET * bucket for bucket in range(1, n_buckets)]
    begins = [math.exp(x) if x < most else math.inf for x in exponents]
    return torch.tensor([0.0, *begins][:n_buckets], dtype=torch.float64)


class TimeBuckets(nn.Module):
    """Gives a batch's times to attention with biases; has no parameters.

    Args:
        encoder: the name of whoever reads them, for messages.
        n_buckets: how many kinds of time are told apart; 0 reads no times.
    """

    bits: torch.Tensor

    def __init__(self, encoder: str, n_buckets: int) -> None:
        super().__init__()
        self.encoder = encoder
        # As integers, which stay what they are when a model is cast to another dtype.
        bits = bucket_begins(n_buckets).view(torch.int64)
        self.register_buffer("bits", bits, persistent=False)

    @property
    def begins(self) -> torch.Tensor:
        """Where the buckets begin, float64 [n_buckets]."""
        return self.bits.view(torch.float64)

    def forward(self, batch: PackedSequences) -> Times:
        """The batch's times, and where buckets begin.

        Raises:
            ValueError: the batch has no times, with buckets.
        """
        if not len(self.bits):
            return Times()
        if batch.times is None:
            raise ValueError(
                f"{self.encoder} reads the time of every item, and here are none: bring data with "
                "timestamps (a history with times=), or train it with encoder.time_buckets=0"
            )
        return Times(batch.times, self.begins)
