"""``count_above_sums`` by one sum after the other."""

from __future__ import annotations

import torch

from pdrec_fast.reference.selection.count_above import count_above


def count_above_sums(
    logits: torch.Tensor, scores: torch.Tensor, weights: torch.Tensor, bounds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``ops.selection.count_above_sums``; the arguments are checked there."""
    found = []
    for weight in weights.tolist():
        # Rounded twice, as the extension does.
        found.append(count_above(logits + weight * scores, bounds[0] + weight * bounds[1]))
    greater, equal, nans = (torch.stack(counts, dim=1) for counts in zip(*found, strict=True))
    return greater, equal, nans
