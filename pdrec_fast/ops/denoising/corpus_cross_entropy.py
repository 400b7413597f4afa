"""Multinomial log-likelihood of a sparse target under the denoiser's prediction."""

from __future__ import annotations

import math
from typing import Any

import torch

from pdrec_fast import buffers
from pdrec_fast.operands import Categories, SparseTarget
from pdrec_fast.ops import onednn
from pdrec_fast.ops.arguments import autocast_dtype
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.denoising._blocks import (
    Block,
    blocks,
    blocks_within,
    layer_gradients,
    most_blocks,
)
from pdrec_fast.ops.denoising._rows import check_layer, check_target
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import corpus_cross_entropy as reference

_NO_CATEGORIES = Categories(*(torch.zeros(0, dtype=torch.int64) for _ in range(2)))
# Rows taken at once on a CPU: few enough that they stay in cache between the passes.
_ROWS = 4


def corpus_cross_entropy(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    rows: torch.Tensor,
    items: torch.Tensor,
    values: torch.Tensor,
    *,
    categories: Categories | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """``-(x * torch.log_softmax(hidden @ item_out.T + item_bias, 1)).sum(1)``, x sparse [B, N].

    The negative log-likelihood of interactions drawn from a multinomial distribution over the
    corpus, but for a constant (Liang et al. 2018, arXiv:1802.05814, eq. 2). Differentiable, once,
    in ``hidden``, ``item_out`` and ``item_bias``. The products run in the dtype of ``hidden``; sums
    over items are fp32. In bf16 the logits are rounded to bf16, so that a loss is as exact as they
    are: to 2^-8 of the largest one, for each unit of the target.

    Args:
        hidden: [B, H], fp32 or bf16 (fp64 too, outside the promises of speed).
        item_out: [N, H]; item_bias: [N].
        rows, items: int64 [nnz], coordinates of the non-zeros of x, no pair twice; values: [nnz],
            not negative.
        categories: int64 [N] and rising int64 [H], from 0 on: entries of ``item_out`` of an item
            and a unit of different categories count as 0. ``"blocks"`` leaves them out.
        impl: ``"dense"`` keeps one B x N matrix: three products of B x N x H. ``"blocks"`` does so
            too, some items at a time, with oneDNN's products (fp32 on a CPU); on AMD processors
            they take about half the time. ``"auto"`` is the latter where it can run.
            ``"reference"``.

    Returns:
        [B], fp32 or wider; 0 of a row without non-zeros.

    Raises:
        ValueError: shapes do not fit; or, on a CPU, a coordinate is outside the matrix, or a
            category's units are not side by side, or there are none.
        BackendError: the named implementation cannot run here.
    """
    check_layer(hidden, item_out)
    chosen = choose("corpus_cross_entropy", impl, _offered(hidden, item_out, impl))
    target = SparseTarget(rows, items, values)
    check_target(target, item_bias, len(hidden), len(item_out))
    if categories is not None:
        _check_categories(categories, item_out)
    if chosen == "blocks":
        given = hidden, item_out, item_bias, target, categories or _NO_CATEGORIES
        return _corpus_cross_entropy_blocks(*given)[0]
    if categories is not None:
        item_out = categories.within(item_out)
    if chosen == "reference":
        return reference.corpus_cross_entropy(hidden, item_out, item_bias, target)
    # Cast here, so that one copy of the matrix serves the product and its gradient.
    return _corpus_cross_entropy(hidden, item_out.to(hidden.dtype), item_bias, target)[0]


def _check_categories(categories: Categories, item_out: torch.Tensor) -> None:
    of_item, of_width = categories
    if (of_item.shape, of_width.shape) != (item_out.shape[:1], item_out.shape[1:]):
        raise ValueError(
            f"categories must have shapes [{len(item_out)}] and [{item_out.shape[1]}], got "
            f"{tuple(of_item.shape)} and {tuple(of_width.shape)}"
        )
    if of_item.device.type != "cpu" or not (len(of_item) and len(of_width)):
        return  # a GPU would have to wait
    if int(of_item.min()) < 0 or int(of_width[0]) < 0 or (of_width.diff() < 0).any():
        raise ValueError(
            "categories must be numbered from 0 on, and those of the units must rise: give every "
            "category neighbouring units"
        )
    units = torch.bincount(of_width, minlength=int(of_item.max()) + 1)
    without = (units[of_item] == 0).nonzero()
    if len(without):
        raise ValueError(
            f"every category of items must have a unit, category {int(of_item[without[0, 0]])} of "
            f"item {int(without[0, 0])} has none"
        )


def _offered(hidden: torch.Tensor, item_out: torch.Tensor, impl: str) -> dict[str, str | None]:
    narrow = autocast_dtype(hidden.device.type) or hidden.dtype
    problem = onednn.problem(hidden, item_out)
    if narrow != torch.float32:
        problem = f"it multiplies float32, got {narrow}"
    others: dict[str, str | None] = {"dense": None, "reference": None}
    # "auto" need not be told of what only some inputs take.
    first = {"blocks": problem} if problem is None or impl != "auto" else {}
    return first | others


@operation(
    fake=lambda a: (
        a.hidden.new_empty(len(a.hidden), dtype=torch.promote_types(a.hidden.dtype, torch.float32)),
        a.hidden.new_empty(len(a.hidden), len(a.item_out)),
        a.hidden.new_empty(len(a.hidden), dtype=torch.promote_types(a.hidden.dtype, torch.float32)),
    ),
    autocast={"cpu": torch.bfloat16, "cuda": torch.bfloat16},
)
def _corpus_cross_entropy(
    hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor, target: SparseTarget
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(losses [B], exponentials [B, N], their sums [B]): probabilities are the quotients, which the
    gradient takes on its B x H side."""
    logits = buffers.empty((len(hidden), len(item_out)), hidden.dtype, hidden.device)
    torch.addmm(item_bias.to(hidden.dtype), hidden, item_out.T, out=logits)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    rows, values = target.rows, target.values.to(wide)
    losses = torch.zeros(len(hidden), dtype=wide, device=hidden.device)
    losses.index_add_(0, rows, values * logits[rows, target.items].to(wide), alpha=-1)
    highest, sums = torch.empty_like(losses), torch.empty_like(losses)
    n_rows = _ROWS if hidden.device.type == "cpu" else max(len(hidden), 1)
    parts = (tensor.split(n_rows) for tensor in (logits, highest, sums))
    for part, most, total in zip(*parts, strict=True):
        most.copy_(part.amax(dim=1))
        part.sub_(most[:, None]).exp_()
        torch.sum(part, dim=1, dtype=wide, out=total)
    losses.addcmul_(_totals(target, losses), sums.log().add_(highest))
    return losses, logits, sums


@_corpus_cross_entropy.gradient(
    of=["hidden", "item_out", "item_bias"],
    saves=["hidden", "item_out", "item_bias", "target"],
    outputs=[1, 2],
    constant=(1, 2),
)
def _(saved: Any, grad_losses: torch.Tensor, *_: None) -> tuple[torch.Tensor | None, ...]:
    hidden, item_out, (exponentials, sums) = saved.hidden, saved.item_out, saved.outputs
    rows, items, values = saved.target
    # The rows' scales go to the B x H side of every product, so B x N numbers are only read.
    scale = (grad_losses * _totals(saved.target, grad_losses) / sums).to(hidden.dtype)
    pulled = (grad_losses[rows] * values).to(hidden.dtype)  # towards the non-zeros of x
    grad_hidden = (exponentials @ item_out) * scale[:, None]
    grad_hidden.index_add_(0, rows, item_out[items] * pulled[:, None], alpha=-1)
    grad_items = buffers.mm(exponentials.T, hidden * scale[:, None])
    grad_items.index_add_(0, items, hidden[rows] * pulled[:, None], alpha=-1)
    grad_bias = (scale @ exponentials).index_add_(0, items, pulled, alpha=-1)
    return grad_hidden, grad_items, grad_bias.to(saved.item_bias.dtype)


@operation(
    fake=lambda a: (
        a.hidden.new_empty(len(a.hidden)),
        a.hidden.new_empty(len(a.hidden) * len(a.item_out)),
        a.hidden.new_empty(most_blocks(*a.item_out.shape), len(a.hidden)),
    ),
    autocast={"cpu": torch.float32, "cuda": torch.float32},
)
def _corpus_cross_entropy_blocks(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    target: SparseTarget,
    categories: Categories,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(losses [B], exponentials in blocks [B * N], what makes probabilities of a block's rows)."""
    n_users, found = len(hidden), _found(item_out, categories)
    exponentials = buffers.empty((n_users * len(item_out),), hidden.dtype, hidden.device)
    highest = hidden.new_full((most_blocks(*item_out.shape), n_users), -math.inf)
    sums = torch.ones_like(highest)
    for block, most, total in zip(found, highest, sums, strict=False):
        logits = block.output(hidden, item_out, item_bias)
        torch.amax(logits, dim=1, out=most)
        part = block.of(exponentials, n_users)
        torch.sub(logits, most[:, None], out=part).exp_()
        torch.sum(part, dim=1, out=total)
    # A block's exponentials are relative to its own highest logit.
    normaliser = torch.logsumexp(sums.log() + highest, dim=0)
    rows, items, values = target.rows, target.items, target.values.to(hidden.dtype)
    own = _within(categories, items, item_out[items])
    logits = (hidden[rows] * own).sum(dim=1) + item_bias[items]
    losses = _totals(target, normaliser) * normaliser
    losses.index_add_(0, rows, values * logits, alpha=-1)
    return losses, exponentials, (highest - normaliser).exp_()


@operation(
    fake=lambda a: tuple(x.new_empty(x.shape) for x in (a.hidden, a.item_out, a.item_out[:, 0])),
    autocast={"cpu": torch.float32, "cuda": torch.float32},
)
def _corpus_cross_entropy_blocks_backward(
    grad_losses: torch.Tensor,
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    target: SparseTarget,
    categories: Categories,
    exponentials: torch.Tensor,
    scales: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients by hidden layer, item matrix and bias."""
    rows, items, values = target
    scale = grad_losses * _totals(target, grad_losses)
    parts = zip(_found(item_out, categories), scales * scale, strict=False)
    grad_hidden, grad_items, grad_bias = layer_gradients(parts, exponentials, hidden, item_out)
    pulled = grad_losses[rows] * values.to(hidden.dtype)  # towards the non-zeros of x
    of_items, of_rows = (
        _within(categories, items, part) for part in (item_out[items], hidden[rows])
    )
    grad_hidden.index_add_(0, rows, of_items * pulled[:, None], alpha=-1)
    grad_items.index_add_(0, items, of_rows * pulled[:, None], alpha=-1)
    grad_bias.index_add_(0, items, pulled, alpha=-1)
    return grad_hidden, grad_items, grad_bias


@_corpus_cross_entropy_blocks.gradient(
    of=["hidden", "item_out", "item_bias"],
    saves=["hidden", "item_out", "target", "categories"],
    outputs=[1, 2],
    constant=(1, 2),
)
def _(saved: Any, grad_losses: torch.Tensor, *_: None) -> tuple[torch.Tensor | None, ...]:
    given = saved.hidden, saved.item_out, saved.target, saved.categories, *saved.outputs
    found: tuple[torch.Tensor, ...] = _corpus_cross_entropy_blocks_backward(grad_losses, *given)
    return found


def _within(categories: Categories, items: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """``part`` [nnz, H] of these items with 0 outside of their categories."""
    if not len(categories.of_item):
        return part
    return categories._replace(of_item=categories.of_item[items]).within(part)


def _found(item_out: torch.Tensor, categories: Categories) -> list[Block]:
    if len(categories.of_item):
        return blocks_within(categories)
    return blocks(len(item_out), item_out.device)


def _totals(target: SparseTarget, like: torch.Tensor) -> torch.Tensor:
    """The sum of every row of the target, [B] like ``like``."""
    values = target.values.to(like.dtype)
    return torch.zeros_like(like).index_add_(0, target.rows, values)
