"""What benchmarks of the noised input share: rows, scales and plain noise."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from bench.data import split
from bench.target import target
from pdrec_fast.diffusion.inputs import SparseRows, interaction_rows

DROPOUT, SIGNAL, SIGMA = 0.5, 0.99, 0.01
OTHER_NUMBERS = "other random numbers, from dense rows"
KEY: dict[str, Any] = {"seed": 0, "epoch": 0}


def rows_of(users: int, items: int) -> SparseRows:
    histories = split(users, items).train.histories()
    return interaction_rows(histories, weighting="interval", w_min=0.5, w_max=1.0)


def arrays(rows: SparseRows) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """([indptr, items, values], [signal, sigma, users]) where the kernels read them."""
    n, device = len(rows), target().device
    sparse = [torch.as_tensor(x).to(device) for x in (rows.indptr, rows.items, rows.values)]
    per_row = torch.full((n,), SIGNAL), torch.full((n,), SIGMA), torch.arange(n)
    return sparse, [x.to(device) for x in per_row]


def plain_noise(x0: torch.Tensor) -> torch.Tensor:
    return F.dropout(SIGNAL * x0 + SIGMA * torch.randn_like(x0), DROPOUT)
