"""Squared error of a layer with tanh over the whole corpus, with a sparse target."""

from __future__ import annotations

from typing import Any

import torch

from pdrec_fast import buffers
from pdrec_fast.operands import SparseTarget
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.denoising._blocks import blocks, layer_gradients, positions, predicted
from pdrec_fast.ops.denoising._rows import check_layer, check_target
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import tanh_error as reference


def tanh_error(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    rows: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    *,
    impl: str = "auto",
) -> torch.Tensor:
    """``((torch.tanh(hidden @ item_out.T + item_bias) - x) ** 2).sum(1)``, x sparse [B, N].

    Of CODIGEM's decoder. Differentiable, once, in ``hidden``, ``item_out`` and ``item_bias``.

    Args:
        hidden: [B, H], floating.
        item_out: [N, H]; item_bias: [N]; of the dtype of ``hidden``.
        rows, items: int64 [nnz], coordinates of the non-zeros of x, no pair twice; values: [nnz].
        impl: ``"blocks"`` takes some items at a time and keeps one matrix [B, N]. ``"reference"``.
            ``"auto"`` is the former.

    Returns:
        [B], of that dtype.

    Raises:
        ValueError: shapes do not fit; or, on a CPU, a coordinate is outside the matrix.
    """
    check_layer(hidden, item_out)
    chosen = choose("tanh_error", impl, {"blocks": None, "reference": None})
    target = SparseTarget(rows, items, values)
    check_target(target, item_bias, len(hidden), len(item_out))
    if chosen == "reference":
        return reference.tanh_error(hidden, item_out, item_bias, target)
    return _tanh_error(hidden, item_out, item_bias, target)[0]


@operation(
    fake=lambda a: (
        a.hidden.new_empty(len(a.hidden)),
        a.hidden.new_empty(len(a.hidden) * len(a.item_out)),
    ),
    autocast={"cpu": torch.float32, "cuda": torch.float32},
)
def _tanh_error(
    hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor, target: SparseTarget
) -> tuple[torch.Tensor, torch.Tensor]:
    """(errors [B], half their derivatives by the layer's output in blocks, [B * N])."""
    n_users, n_items = len(hidden), len(item_out)
    gradient = buffers.empty((n_users * n_items,), hidden.dtype, hidden.device)
    errors = torch.zeros_like(hidden[:, 0])
    for block in blocks(n_items, hidden.device):
        found = block.output(hidden, item_out, item_bias).tanh_()
        squares = torch.mul(found, found, out=block.of(gradient, n_users))
        errors.add_(squares.sum(dim=1))
        squares.neg_().add_(1).mul_(found)
    # So far x was 0; at its non-zeros tanh is computed again.
    rows, items, values = target.rows, target.items, target.values.to(hidden.dtype)
    found = predicted(hidden, item_out, item_bias, rows, items).tanh_()
    errors.index_add_(0, rows, values * (values - 2 * found))
    places = positions(rows, items, n_users, n_items)
    gradient[places] -= values * (1 - found.square())
    return errors, gradient


@_tanh_error.gradient(
    of=["hidden", "item_out", "item_bias"],
    saves=["hidden", "item_out"],
    outputs=[1],
    constant=(1,),
)
def _(saved: Any, grad_errors: torch.Tensor, *_: None) -> tuple[torch.Tensor, ...]:
    hidden, item_out, (gradient,) = saved.hidden, saved.item_out, saved.outputs
    parts = ((block, 2 * grad_errors) for block in blocks(len(item_out), hidden.device))
    return layer_gradients(parts, gradient, hidden, item_out)
