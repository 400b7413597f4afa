"""Mean squared error of the denoiser's prediction over the whole corpus, with a sparse target."""

from __future__ import annotations

from typing import Any

import torch

from pdrec_fast import buffers
from pdrec_fast.build_info import triton_problem
from pdrec_fast.operands import SparseTarget
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.denoising._rows import check_layer
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import corpus_error as reference

# Rows of a narrow matrix widened at once on a CPU: few enough that the wide copy stays in cache.
_WIDENED_ROWS = 8


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
    """``((hidden @ item_out.T + item_bias - x) ** 2).mean(1)`` for a sparse target x [B, N].

    ``mean_j (item_out_j h + b_j - x_j)^2`` of every row (DiffRec, eq. 10, before weighting).
    Differentiable in ``hidden``, ``item_out`` and ``item_bias``. The products run in the dtype of
    ``hidden``; sums over items are fp32.

    Args:
        hidden: [B, H], fp32 or bf16 (fp64 too, outside the promises of speed).
        item_out: [N, H]; item_bias: [N].
        rows, items: int64 [nnz], coordinates of the non-zeros of x, no pair twice; values: [nnz].
        impl: ``"dense"`` keeps one B x N matrix, with x subtracted in place: three products of
            B x N x H. ``"triton"`` (a GPU) does the same with the first of them, x and the squares
            in one kernel. ``"gram"`` expands the square into ``h' (item_out' item_out) h + ...``:
            two products of N x H x H, no B x N matrix. ``"auto"`` takes ``"gram"`` where it has
            fewer operations, but not in bf16, because the expanded terms cancel; else
            ``"triton"`` on a GPU and ``"dense"`` elsewhere. ``"reference"``.

    Returns:
        [B], fp32 or wider.

    Raises:
        ValueError: shapes do not fit.
        BackendError: the named implementation cannot run here.
    """
    check_layer(hidden, item_out)
    batch, width = hidden.shape
    narrow = _wide(hidden.dtype) != hidden.dtype
    if impl == "auto" and not narrow and 3 * batch > 2 * width:
        impl = "gram"
    chosen = choose("corpus_error", impl, _offered(hidden, narrow))
    target = SparseTarget(rows, items, values)
    if chosen == "reference":
        return reference.corpus_error(hidden, item_out, item_bias, target)
    # Cast here, so that one copy of the matrix serves the product and its gradient.
    item_out = item_out.to(hidden.dtype)
    if chosen == "gram":
        return _corpus_error_gram(hidden, item_out, item_bias.to(hidden.dtype), target)[0]
    return _corpus_error_dense(hidden, item_out, item_bias, target, chosen)[0]


def _offered(hidden: torch.Tensor, narrow: bool) -> dict[str, str | None]:
    device = hidden.device.type
    other = None
    if hidden.dtype not in (torch.float32, torch.bfloat16):
        other = f"it takes float32 or bfloat16, got {hidden.dtype}"
    on_triton = {"triton": other or triton_problem(device)}
    cancels = f"{hidden.dtype} is too narrow for terms that cancel" if narrow else None
    others = {"dense": None, "gram": cancels, "reference": None}
    # On a CPU only the interpreter runs Triton's kernels, which is for tests.
    return others | on_triton if device == "cpu" else on_triton | others


# Products in bfloat16, of whatever type autocast's are, because kernels and promises know no other
# narrow one; terms that cancel stay in float32.
@operation(
    fake=lambda a: (
        a.hidden.new_empty(len(a.hidden), dtype=_wide(a.hidden.dtype)),
        a.hidden.new_empty(len(a.hidden), len(a.item_out)),
    ),
    autocast={"cpu": torch.bfloat16, "cuda": torch.bfloat16},
)
def _corpus_error_dense(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    target: SparseTarget,
    impl: str = "dense",
) -> tuple[torch.Tensor, torch.Tensor]:
    """(errors [B], prediction minus x [B, N]); the latter is what the gradient needs."""
    if impl == "triton":
        from pdrec_fast.kernels.triton.denoising import corpus_error as kernels

        squares, difference = kernels.corpus_error(hidden, item_out, item_bias, target)
        return squares / len(item_out), difference
    difference = buffers.empty((len(hidden), len(item_out)), hidden.dtype, hidden.device)
    torch.addmm(item_bias.to(hidden.dtype), hidden, item_out.T, out=difference)
    # No pair comes twice, so nothing need accumulate, for which CUDA would sort.
    difference[target.rows, target.items] -= target.values.to(hidden.dtype)
    return _squared_norms(difference) / difference.shape[1], difference


@_corpus_error_dense.gradient(
    of=["hidden", "item_out", "item_bias"], saves=["hidden", "item_out", "item_bias"], outputs=[1]
)
def _(
    saved: Any, grad_errors: torch.Tensor | None, grad_difference: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    hidden, item_out, (difference,) = saved.hidden, saved.item_out, saved.outputs
    bias_dtype = saved.item_bias.dtype
    grad_hidden = grad_items = grad_bias = None
    if grad_errors is not None:
        # The rows' scales go to the B x H side of every product, so B x N numbers are only read.
        scale = (2 / len(item_out) * grad_errors).to(hidden.dtype)
        grad_hidden = (difference @ item_out) * scale[:, None]
        grad_items = buffers.mm(difference.T, hidden * scale[:, None])
        grad_bias = (scale @ difference).to(bias_dtype)
    if grad_difference is not None:  # in second derivatives
        grad_hidden = _plus(grad_hidden, grad_difference @ item_out)
        grad_items = _plus(grad_items, grad_difference.T @ hidden)
        grad_bias = _plus(grad_bias, grad_difference.sum(dim=0).to(bias_dtype))
    return grad_hidden, grad_items, grad_bias


@operation(
    fake=lambda a: (
        a.hidden.new_empty(len(a.hidden)),
        a.hidden.new_empty(a.hidden.shape[1], a.hidden.shape[1]),
        a.hidden.new_empty(a.hidden.shape[1]),
    ),
    autocast={"cpu": torch.float32, "cuda": torch.float32},
)
def _corpus_error_gram(
    hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor, target: SparseTarget
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(errors [B], item_out' item_out [H, H], item_out' b [H])."""
    rows, items, values = target
    gram, offset = item_out.T @ item_out, item_bias @ item_out
    values = values.to(hidden.dtype)
    errors = ((hidden @ gram + 2 * offset) * hidden).sum(dim=1) + item_bias.square().sum()
    predicted = (item_out[items] * hidden[rows]).sum(dim=1) + item_bias[items]
    errors.index_add_(0, rows, values * (values - 2 * predicted))
    return errors / len(item_out), gram, offset


@_corpus_error_gram.gradient(
    of=["hidden", "item_out", "item_bias"],
    saves=["hidden", "item_out", "item_bias", "target"],
    outputs=[1, 2],
)
def _(
    saved: Any,
    grad_errors: torch.Tensor | None,
    grad_gram: torch.Tensor | None,
    grad_offset: torch.Tensor | None,
) -> tuple[torch.Tensor | None, ...]:
    hidden, item_out, item_bias = saved.hidden, saved.item_out, saved.item_bias
    rows, items, values = saved.target
    gram, offset = saved.outputs
    grad_hidden = grad_items = grad_bias = None
    if grad_errors is not None:
        scale = 2 / len(item_out) * grad_errors
        scaled = hidden * scale[:, None]
        total = scaled.sum(dim=0)
        pulled = values.to(hidden.dtype) * scale[rows]  # what the non-zeros of x pull towards
        grad_hidden = torch.addcmul(scaled @ gram, scale[:, None], offset)
        grad_hidden.index_add_(0, rows, item_out[items] * pulled[:, None], alpha=-1)
        grad_items = _of_items(item_bias, total, item_out, scaled.T @ hidden)
        grad_items.index_add_(0, items, hidden[rows] * pulled[:, None], alpha=-1)
        grad_bias = torch.addmv(item_bias * scale.sum(), item_out, total)
        grad_bias.index_add_(0, items, pulled, alpha=-1)
    if grad_gram is not None:  # in second derivatives, as what follows
        grad_items = _plus(grad_items, item_out @ (grad_gram + grad_gram.T))
    if grad_offset is not None:
        grad_items = _plus(grad_items, torch.outer(item_bias, grad_offset))
        grad_bias = _plus(grad_bias, item_out @ grad_offset)
    return grad_hidden, grad_items, grad_bias


def _of_items(
    item_bias: torch.Tensor, total: torch.Tensor, item_out: torch.Tensor, gram: torch.Tensor
) -> torch.Tensor:
    """``addmm(outer(item_bias, total), item_out, gram)``, [N, H], in memory that may be kept."""
    if torch.is_grad_enabled():  # a second derivative may be asked for
        return torch.addmm(torch.outer(item_bias, total), item_out, gram)
    out = buffers.empty(item_out.shape, item_out.dtype, item_out.device)
    return torch.outer(item_bias, total, out=out).addmm_(item_out, gram)


def _plus(total: torch.Tensor | None, term: torch.Tensor) -> torch.Tensor:
    return term if total is None else total + term


def _squared_norms(matrix: torch.Tensor) -> torch.Tensor:
    """Sum of squares of every row, fp32 or wider: [B, N] -> [B]."""
    wide = _wide(matrix.dtype)
    if matrix.device.type != "cpu" or matrix.dtype == wide:
        return torch.linalg.vector_norm(matrix, dim=1, dtype=wide).square()
    # On a CPU a norm of another dtype would first make a wide copy of the whole matrix.
    parts = matrix.split(_WIDENED_ROWS)
    return torch.cat([part.to(wide).square_().sum(dim=1) for part in parts])


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
