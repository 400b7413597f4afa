"""Scores and observed items of rows, for the operations that take a matrix of scores."""

from __future__ import annotations

import numpy as np
import torch

from pdrec_fast.ragged import Ragged

TOP, DRAWS, OBSERVED, OMEGA = 50, 200, 14, 0.5


def scored_rows(users: int, items: int) -> tuple[torch.Tensor, Ragged, int]:
    """(scores [users, items], observed items, the rank where pools begin)."""
    rng = np.random.default_rng(0)
    # The same normal quantiles in another order for every row: no ties, so one right answer.
    quantiles = torch.special.ndtri((torch.arange(items, dtype=torch.float64) + 0.5) / items)
    order = torch.from_numpy(rng.random((users, items)).argsort(axis=1))
    seen = np.sort(rng.random((users, items)).argsort(axis=1)[:, :OBSERVED])
    observed = Ragged(seen.astype(np.int32).ravel(), np.arange(users + 1) * OBSERVED)
    return quantiles.float()[order], observed, int(OMEGA * (items - OBSERVED))
