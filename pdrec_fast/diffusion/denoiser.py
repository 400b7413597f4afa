"""The denoiser of DiffRec: a tanh MLP over all items with a sinusoidal time embedding.

``x̂ = h W_out' + b_out`` with ``h = tanh(x W_in + e(t) W_time + b_in)``. Both item matrices are
stored item-major, [N, H]: a sum over a user's few items gathers contiguous rows, and items can be
split over devices along dimension 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

ITEM_WEIGHTS = ("item_in", "item_out", "item_bias")  # parameters with a row for every item


def timestep_embedding(steps: torch.Tensor, size: int) -> torch.Tensor:
    """Sinusoidal embedding of step numbers (Vaswani et al. 2017): [B] -> float32 [B, size]."""
    half = size // 2
    exponents = torch.arange(half, dtype=torch.float32, device=steps.device) / max(half, 1)
    angles = steps[:, None].float() * torch.exp(-math.log(10_000.0) * exponents)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, size - 2 * half))


class Denoiser(nn.Module):
    """Predicts x_0 (or the noise) for every item from a noised interaction vector.

    Args:
        n_items: N, the corpus size.
        hidden: widths of the hidden layers, first to last. The paper uses one.
        time_embedding: width of the time embedding.
        normalize_input: scale each input row to unit length first.

    Parameters: ``item_in`` [N, hidden[0]], ``item_out`` [N, hidden[-1]], ``item_bias`` [N],
    ``time`` and ``time_in`` (Linear; the latter's bias is b_in), ``inner`` (Linear, between hidden
    layers).

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        n_items: int,
        hidden: Sequence[int] = (1000,),
        time_embedding: int = 10,
        normalize_input: bool = False,
    ) -> None:
        super().__init__()
        if n_items < 1 or not hidden or min(hidden) < 1 or time_embedding < 1:
            raise ValueError(
                "n_items, every hidden width and time_embedding must be at least 1, got "
                f"{n_items=}, {hidden=}, {time_embedding=}"
            )
        self.hidden = tuple(hidden)
        self.time_embedding = time_embedding
        self.normalize_input = normalize_input
        self.item_in = nn.Parameter(torch.empty(n_items, hidden[0], dtype=torch.float32))
        self.time = nn.Linear(time_embedding, time_embedding, dtype=torch.float32)
        self.time_in = nn.Linear(time_embedding, hidden[0], dtype=torch.float32)
        self.inner = nn.ModuleList(
            nn.Linear(a, b, dtype=torch.float32) for a, b in pairwise(hidden)
        )
        self.item_out = nn.Parameter(torch.empty(n_items, hidden[-1], dtype=torch.float32))
        self.item_bias = nn.Parameter(torch.empty(n_items, dtype=torch.float32))
        self.reset_parameters()

    @property
    def n_items(self) -> int:
        """N."""
        return self.item_in.shape[0]

    def reset_parameters(self) -> None:
        """Normal weights with variance 2 / (fan_in + fan_out), biases with deviation 0.001."""
        # The first layer reads items and time embedding side by side: they share one fan-in.
        fan_in = self.n_items + self.time_embedding
        first = math.sqrt(2 / (fan_in + self.hidden[0]))
        nn.init.normal_(self.item_in, std=first)
        nn.init.normal_(self.time_in.weight, std=first)
        nn.init.normal_(self.item_out, std=math.sqrt(2 / (self.n_items + self.hidden[-1])))
        for layer in (self.time, *self.inner):
            nn.init.xavier_normal_(layer.weight)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.001)

    def time_term(self, steps: torch.Tensor) -> torch.Tensor:
        """``e(t) W_time + b_in`` for steps [B]: [B, hidden[0]]."""
        embedding = timestep_embedding(steps, self.time_embedding)
        return self.time_in(self.time(embedding.to(self.time.weight.dtype)))

    def encode(self, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """The last hidden layer for dense inputs x [B, N] at steps [B]: [B, hidden[-1]].

        Inputs are taken as they are: normalising comes before dropout, which is not done here.
        """
        return self.hidden_from(x @ self.item_in.to(x.dtype), steps)

    def hidden_from(self, projection: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """The last hidden layer for inputs whose ``x item_in`` [B, hidden[0]] is known."""
        h = torch.tanh(projection + self.time_term(steps).to(projection.dtype))
        for layer in self.inner:
            h = torch.tanh(F.linear(h, *(weight.to(h.dtype) for weight in layer.parameters())))
        return h

    def decode(self, h: torch.Tensor) -> torch.Tensor:
        """Predictions for every item from the last hidden layer: [B, hidden[-1]] -> [B, N]."""
        return F.linear(h, self.item_out.to(h.dtype), self.item_bias.to(h.dtype))

    def forward(self, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Predictions for dense inputs x [B, N] at steps int64 [B]: [B, N]."""
        if self.normalize_input:
            x = F.normalize(x)
        return self.decode(self.encode(x, steps))
