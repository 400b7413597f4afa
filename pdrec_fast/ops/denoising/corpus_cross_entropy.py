"""Multinomial log-likelihood of a sparse target under the denoiser's prediction."""

from __future__ import annotations

from typing import Any

import torch

from pdrec_fast import buffers
from pdrec_fast.operands import SparseTarget
from pdrec_fast.ops import onednn
from pdrec_fast.ops.arguments import autocast_dtype
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.denoising import _blocks
from pdrec_fast.ops.denoising._rows import check_layer, check_target
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import corpus_cross_entropy as reference

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
        impl: ``"dense"`` keeps one B x N matrix: three products of B x N x H. ``"blocks"`` does so
            too, some items at a time, with oneDNN's products (fp32 on a CPU); on AMD processors
            they take about half the time. ``"auto"`` is the latter where it can run.
            ``"reference"``.

    Returns:
        [B], fp32 or wider; 0 of a row without non-zeros.

    Raises:
        ValueError: shapes do not fit; or, on a CPU, a coordinate is outside the matrix.
        BackendError: the named implementation cannot run here.
    """
    check_layer(hidden, item_out)
    chosen = choose("corpus_cross_entropy", impl, _offered(hidden, item_out, impl))
    target = SparseTarget(rows, items, values)
    check_target(target, item_bias, len(hidden), len(item_out))
    if chosen == "reference":
        return reference.corpus_cross_entropy(hidden, item_out, item_bias, target)
    if chosen == "blocks":
        return _corpus_cross_entropy_blocks(hidden, item_out, item_bias, target)[0]
    # Cast here, so that one copy of the matrix serves the product and its gradient.
    return _corpus_cross_entropy(hidden, item_out.to(hidden.dtype), item_bias, target)[0]


def _offered(hidden: torch.Tensor, item_out: torch.Tensor, impl: str) -> dict[str, str | None]:
    narrow = autocast_dtype(hidden.device.type) or hidden.dtype
    problem = onednn.problem(hidden, item_out)
    if narrow != torch.float32:
        problem = f"it multiplies float32, got {narrow}"
    others: dict[str, str | None] = {"dense": None, "reference": None}
    # "auto" need not be told of what only some inputs take.
    blocks = {"blocks": problem} if problem is None or impl != "auto" else {}
    return blocks | others


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
        a.hidden.new_empty(
            len(_blocks.ranges(len(a.item_out), a.hidden.device)), len(a.hidden)
        ),
    )
)
def _corpus_cross_entropy_blocks(
    hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor, target: SparseTarget
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(losses [B], exponentials in blocks [B * N], what makes probabilities of a block's rows)."""
    n_users, n_items = len(hidden), len(item_out)
    exponentials = buffers.empty((n_users * n_items,), hidden.dtype, hidden.device)
    found = _blocks.ranges(n_items, hidden.device)
    highest, sums = hidden.new_empty(len(found), n_users), hidden.new_empty(len(found), n_users)
    for at, most, total in zip(found, highest, sums, strict=True):
        logits = onednn.linear(hidden, item_out[at], item_bias[at])
        torch.amax(logits, dim=1, out=most)
        part = _blocks.block(exponentials, at, n_users)
        torch.sub(logits, most[:, None], out=part).exp_()
        torch.sum(part, dim=1, out=total)
    # A block's exponentials are relative to its own highest logit.
    normaliser = torch.logsumexp(sums.log() + highest, dim=0)
    rows, items, values = target.rows, target.items, target.values.to(hidden.dtype)
    logits = _blocks.predicted(hidden, item_out, item_bias, rows, items)
    losses = _totals(target, normaliser) * normaliser
    losses.index_add_(0, rows, values * logits, alpha=-1)
    return losses, exponentials, (highest - normaliser).exp_()


@_corpus_cross_entropy_blocks.gradient(
    of=["hidden", "item_out", "item_bias"],
    saves=["hidden", "item_out", "target"],
    outputs=[1, 2],
    constant=(1, 2),
)
def _(saved: Any, grad_losses: torch.Tensor, *_: None) -> tuple[torch.Tensor | None, ...]:
    hidden, item_out, (exponentials, scales) = saved.hidden, saved.item_out, saved.outputs
    rows, items, values = saved.target
    scale = grad_losses * _totals(saved.target, grad_losses)
    found = _blocks.ranges(len(item_out), hidden.device)
    blocks = (_blocks.block(exponentials, at, len(hidden)) for at in found)
    gradients = _blocks.layer_gradients(zip(found, blocks, scales * scale, strict=True), hidden, item_out)
    grad_hidden, grad_items, grad_bias = gradients
    pulled = grad_losses[rows] * values.to(hidden.dtype)  # towards the non-zeros of x
    grad_hidden.index_add_(0, rows, item_out[items] * pulled[:, None], alpha=-1)
    grad_items.index_add_(0, items, hidden[rows] * pulled[:, None], alpha=-1)
    grad_bias.index_add_(0, items, pulled, alpha=-1)
    return grad_hidden, grad_items, grad_bias


def _totals(target: SparseTarget, like: torch.Tensor) -> torch.Tensor:
    """The sum of every row of the target, [B] like ``like``."""
    values = target.values.to(like.dtype)
    return torch.zeros_like(like).index_add_(0, target.rows, values)
