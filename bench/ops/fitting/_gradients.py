"""What a training step leaves for the item table: gradients of rows, some of them repeated."""

from __future__ import annotations

from typing import Any

import torch

FIELDS: dict[str, Any] = {
    # About what a batch of 128 users of Toy looks up and ranks.
    "sizes": {"gradients": 7_000, "items": 37_868, "width": 64},
    "small": {"gradients": 23, "items": 31, "width": 9},
    "check_at_size": True,
}


def gradients_of(gradients: int, items: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, int64 [n], popular ones often; their gradients, [n, width])."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(gradients, generator=generator, dtype=torch.float64)
    rows = (items * uniform.square()).long()
    return rows, torch.randn(gradients, width, generator=generator)
