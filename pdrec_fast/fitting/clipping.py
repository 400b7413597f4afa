"""Gradients scaled down to a largest length."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pdrec_fast.ranks import Axis

_EPS = 1e-6


@torch.no_grad()
def clip_gradients(
    gradients: Sequence[torch.Tensor],
    max_norm: float,
    shares: Sequence[torch.Tensor] = (),
    axis: Axis | None = None,
) -> torch.Tensor:
    """Scale ``gradients`` in place so that their common L2 norm is at most ``max_norm``.

    It equals ``torch.nn.utils.clip_grad_norm_`` on the gradients themselves: of a table whose
    gradient is kept as rows, pass the rows, each item once. Nothing is read back to the host. Where
    an entry is NaN or infinite, gradients become NaN, which the training then reports.

    Args:
        gradients: dense, of any shapes, on one device.
        max_norm: above 0.
        shares: further gradients, of which every process along ``axis`` has others.

    Returns:
        The norm before, float32 [].
    """
    norm = _norm(gradients)
    if axis is not None:
        squares = axis.sum_(_norm(shares).square())
        norm = (norm.square() + squares).sqrt()
    scale = (max_norm / (norm + _EPS)).clamp(max=1.0)
    for gradient in (*gradients, *shares):
        gradient.mul_(scale)
    return norm


def _norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    return torch.linalg.vector_norm(torch.stack(norms))
