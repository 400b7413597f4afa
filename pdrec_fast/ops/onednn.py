"""oneDNN's product of float32 matrices on a CPU, on AMD processors about twice as fast as MKL's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from pdrec_fast.ops.declaration import operation


def problem(*tensors: torch.Tensor) -> str | None:
    """Why oneDNN does not multiply these; None where it does."""
    if any(t.device.type != "cpu" or t.dtype != torch.float32 for t in tensors):
        return "it multiplies float32 on a CPU"
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without it"
    return None


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``F.linear(x, weight, bias)`` by oneDNN, without gradient. Both ways give the same bits.

    Matrices are contiguous or the transpose of one that is; oneDNN takes minutes over others.
    """
    bias = bias if bias is None else bias.contiguous()  # other strides are not looked at
    fused = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if fused is not None:  # what torch's compiler calls: dense in and out, without copies
        found: torch.Tensor = fused(x, weight, bias, "none", [], "")
        return found
    return F.linear(x.to_mkldnn(), weight, bias).to_dense()


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``F.linear(x, weight, bias)``, by oneDNN where it can; without gradient."""
    if problem(x, weight) is not None or not (x.numel() and weight.numel()):
        return F.linear(x, weight, bias)
    return product(_plain(x), _plain(weight), bias)


def _plain(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.is_contiguous() or matrix.T.is_contiguous() else matrix.contiguous()


def corpus_layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """``F.linear(x, weight, bias)`` for x [B, N] over the corpus, differentiable, once, in
    ``weight`` [H, N] and ``bias`` [H]."""
    return _corpus_layer(x, weight, bias)


@operation(
    fake=lambda a: a.x.new_empty((len(a.x), len(a.weight))),
    autocast={"cpu": torch.float32, "cuda": torch.float32},
)
def _corpus_layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return linear(x, weight, bias)


@_corpus_layer.gradient(of=["weight", "bias"], saves=["x"])
def _(saved: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return linear(grad_out.T, saved.x.T), grad_out.sum(dim=0)
