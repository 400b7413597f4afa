"""``count_above`` by masks of the size of the scores."""

from __future__ import annotations

import torch


def count_above(
    scores: torch.Tensor, bounds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``ops.selection.count_above``; the arguments are checked there."""
    bounds = bounds[:, None]
    return (scores > bounds).sum(1), (scores == bounds).sum(1), scores.isnan().sum(1)
