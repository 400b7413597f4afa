"""Mean squared error of the denoiser's prediction over the whole corpus, with a sparse target."""

from __future__ import annotations

from typing import Any

import torch

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
        impl: ``"torch"`` (``torch.ops.pdrec_fast.corpus_error``) keeps one B x N matrix, with x
            subtracted in place; ``"reference"``.

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
    # Cast here, so that one copy of the matrix serves the product and its gradient.
    return _corpus_error(hidden, item_out.to(hidden.dtype), *arguments[2:])[0]


@torch.library.custom_op("pdrec_fast::corpus_error", mutates_args=())
def _corpus_error(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    rows: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(errors [B], prediction minus x [B, N]); the latter is what the gradient needs."""
    difference = torch.addmm(item_bias.to(hidden.dtype), hidden, item_out.T)
    difference.index_put_((rows, items), -values.to(hidden.dtype), accumulate=True)
    norm = torch.linalg.vector_norm(difference, dim=1, dtype=_wide(hidden.dtype))
    return norm.square() / difference.shape[1], difference


@_corpus_error.register_fake
def _(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    rows: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    n_rows, n_items = len(hidden), len(item_out)
    return hidden.new_empty(n_rows, dtype=_wide(hidden.dtype)), hidden.new_empty(n_rows, n_items)


def _setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
    hidden, item_out, item_bias, *_ = inputs
    ctx.set_materialize_grads(False)  # zeros for the unused difference would be B x N
    ctx.save_for_backward(hidden, item_out, output[1])
    ctx.bias_dtype = item_bias.dtype


def _backward(
    ctx: Any, of_errors: torch.Tensor | None, of_difference: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    hidden, item_out, difference = ctx.saved_tensors
    error = of_difference
    if of_errors is not None:
        scale = (2 / len(item_out) * of_errors).to(hidden.dtype)
        scaled = difference * scale[:, None]
        error = scaled if error is None else error + scaled
    if error is None:
        return (None,) * 6
    bias_gradient = error.sum(dim=0, dtype=_wide(error.dtype)).to(ctx.bias_dtype)
    return error @ item_out, error.T @ hidden, bias_gradient, None, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


_corpus_error.register_autograd(_backward, setup_context=_setup_context)
for _device in ("cpu", "cuda"):
    _corpus_error.register_autocast(_device, torch.bfloat16)
