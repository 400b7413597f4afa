"""Gradients scaled down to a largest length."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_EPS = 1e-6


@torch.no_grad()
def clip_gradients(gradients: Sequence[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Scale ``gradients`` in place so that their common L2 norm is at most ``max_norm``.

    It equals ``torch.nn.utils.clip_grad_norm_`` on the gradients themselves: of a table whose
    gradient is kept as rows, pass the rows, each item once. Nothing is read back to the host. Where
    an entry is NaN or infinite, gradients become NaN, which the training then reports.

    Args:
        gradients: dense, of any shapes, on one device.
        max_norm: above 0.

    Returns:
        The norm before, float32 [].
    """
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    scale = (max_norm / (norm + _EPS)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)
    return norm
