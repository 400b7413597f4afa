"""``select_unobserved`` by sorting every row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.ragged import Ragged


def observed_mask(observed: Ragged, n_items: int) -> torch.Tensor:
    """Rows of items as a bool matrix [B, n_items]."""
    mask = torch.zeros((observed.n_rows, n_items), dtype=torch.bool)
    rows, items = observed.row_indices, observed.values.astype(np.int64)
    mask[torch.from_numpy(rows), torch.from_numpy(items)] = True
    return mask


def select_unobserved(
    scores: torch.Tensor, observed: Ragged, top_m: int, first_rank: npt.NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``pdrec_fast.ops.selection.select_unobserved``; the arguments are checked there."""
    mask = observed_mask(observed, scores.shape[1])
    order = scores.argsort(dim=1, descending=True, stable=True)
    # Observed items go last; the rest keep their order.
    order = order.gather(1, mask.gather(1, order).to(torch.uint8).argsort(dim=1, stable=True))
    n_unobserved = (~mask).sum(dim=1, keepdim=True)
    top_items = torch.full((len(scores), top_m), -1, dtype=torch.int32)
    width = min(top_m, scores.shape[1])
    missing = torch.arange(width) >= n_unobserved
    top_items[:, :width] = order[:, :width].masked_fill(missing, -1).int()
    threshold_item = order.gather(1, torch.from_numpy(first_rank).unsqueeze(1))
    return top_items, scores.gather(1, threshold_item)[:, 0], threshold_item[:, 0].int()
