"""Mean squared error of the denoiser's prediction over the whole corpus, with a sparse target."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference import corpus_error as reference


def corpus_error(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    rows: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    *,
    impl: str = "auto",
) -> torch.Tensor:
    """``mean_j (item_out_j h + b_j - x_j)^2`` for every row (DiffRec, eq. 10, before weighting).

    Differentiable in ``hidden``, ``item_out`` and ``item_bias``. The products run in the dtype of
    ``hidden``; sums over items are fp32.

    Args:
        hidden: [B, H], fp32 or bf16 (fp64 for the reference).
        item_out: [N, H]; item_bias: [N].
        rows, items: int64 [nnz], coordinates of the non-zeros of x, no pair twice; values: [nnz].
        impl: ``"torch"`` keeps one B x N matrix and reuses it for the gradient; ``"reference"``.

    Returns:
        [B], fp32 or wider.
    """
    if hidden.ndim != 2 or item_out.ndim != 2 or hidden.shape[1] != item_out.shape[1]:
        raise ValueError(
            "hidden [B, H] and item_out [N, H] must share H, got shapes "
            f"{tuple(hidden.shape)} and {tuple(item_out.shape)}"
        )
    arguments = (hidden, item_out, item_bias, rows, items, values)
    if choose("corpus_error", impl, {"torch": None, "reference": None}) == "reference":
        return reference.corpus_error(*arguments)
    return _CorpusError.apply(*arguments)


class _CorpusError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: torch.Tensor) -> torch.Tensor:
        hidden, item_out, item_bias, rows, items, values = arguments
        weight = item_out.to(hidden.dtype)
        difference = torch.addmm(item_bias.to(hidden.dtype), hidden, weight.T)
        difference.index_put_((rows, items), -values.to(hidden.dtype), accumulate=True)
        ctx.save_for_backward(hidden, weight)
        ctx.difference = difference
        ctx.weight_dtype = item_out.dtype
        wide = torch.promote_types(hidden.dtype, torch.float32)
        norm = torch.linalg.vector_norm(difference, dim=1, dtype=wide)
        return norm.square() / difference.shape[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        difference, ctx.difference = ctx.difference, None
        if difference is None:
            raise RuntimeError("corpus_error: backward runs once; use impl='reference' for more")
        scale = 2 / len(weight) * gradients[0]
        # The difference has served: its memory becomes the gradient of the prediction.
        error = difference.mul_(scale.to(hidden.dtype)[:, None])
        return (
            error @ weight,
            (error.T @ hidden).to(ctx.weight_dtype),
            error.sum(dim=0, dtype=scale.dtype).to(ctx.weight_dtype),
            None,
            None,
            None,
        )
