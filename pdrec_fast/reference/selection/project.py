"""Reference of ``ops.project``: the product in float64."""

from __future__ import annotations

import torch


def project(
    vectors: torch.Tensor, table: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """float64 [B, N]; see ``ops.selection.project``."""
    scores = vectors.double() @ table.double().T
    return scores if bias is None else scores + bias.double()
