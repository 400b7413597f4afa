"""Negative log density of a dense vector over the corpus under normals that a layer describes."""

from __future__ import annotations

import math
from typing import Any

import torch

from pdrec_fast import buffers
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.denoising._blocks import Block, blocks, layer_gradients
from pdrec_fast.ops.denoising._rows import check_layer
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import normal_likelihood as reference

_LOG_2_PI = math.log(2 * math.pi)


def normal_likelihood(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    z: torch.Tensor,
    *,
    impl: str = "auto",
) -> torch.Tensor:
    """``-Normal(mean, (0.5 * log_variance).exp()).log_prob(z).sum(1)``, where
    ``mean, log_variance = (hidden @ item_out.T + item_bias).chunk(2, dim=1)``.

    A reverse step of CODIGEM. Differentiable, once, in ``hidden``, ``item_out`` and ``item_bias``.

    Args:
        hidden: [B, H], floating.
        item_out: [2 N, H], rows of the means, then of the log variances; item_bias: [2 N]; of the
            dtype of ``hidden``.
        z: [B, N], alike.
        impl: ``"blocks"`` takes some items at a time and keeps one matrix [B, 2 N].
            ``"reference"``. ``"auto"`` is the former.

    Returns:
        [B], of that dtype.

    Raises:
        ValueError: shapes do not fit.
    """
    check_layer(hidden, item_out)
    n_users, n_items = len(hidden), len(item_out) // 2
    if len(item_out) % 2 or item_bias.shape != (len(item_out),) or z.shape != (n_users, n_items):
        raise ValueError(
            f"item_out must have two rows for each of the N items of z, [{n_users}, N], and "
            f"item_bias as many, got shapes {tuple(item_out.shape)}, {tuple(item_bias.shape)} and "
            f"{tuple(z.shape)}"
        )
    chosen = choose("normal_likelihood", impl, {"blocks": None, "reference": None})
    if chosen == "reference":
        return reference.normal_likelihood(hidden, item_out, item_bias, z)
    return _normal_likelihood(hidden, item_out, item_bias, z)[0]


@operation(
    fake=lambda a: (
        a.hidden.new_empty(len(a.hidden)),
        a.hidden.new_empty(len(a.hidden) * len(a.item_out)),
    ),
    autocast={"cpu": torch.float32, "cuda": torch.float32},
)
def _normal_likelihood(
    hidden: torch.Tensor, item_out: torch.Tensor, item_bias: torch.Tensor, z: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(losses [B], their derivatives by the layer's output in blocks, [B * 2 N])."""
    n_users, n_items = z.shape
    gradient = buffers.empty((n_users * len(item_out),), hidden.dtype, hidden.device)
    twice = torch.full_like(hidden[:, 0], n_items * _LOG_2_PI)
    for of_mean, of_log in _pairs(n_items, z.device):
        by_mean, by_log = of_mean.of(gradient, n_users), of_log.of(gradient, n_users)
        error = of_mean.output(hidden, item_out, item_bias).sub_(z[:, of_mean.at])
        precision = of_log.output(hidden, item_out, item_bias)
        twice.add_(precision.sum(dim=1))
        torch.mul(error, precision.neg_().exp_(), out=by_mean)
        torch.mul(error, by_mean, out=by_log)
        twice.add_(by_log.sum(dim=1))
        by_log.mul_(-0.5).add_(0.5)
    return twice.mul_(0.5), gradient


@_normal_likelihood.gradient(
    of=["hidden", "item_out", "item_bias"],
    saves=["hidden", "item_out"],
    outputs=[1],
    constant=(1,),
)
def _(saved: Any, grad_losses: torch.Tensor, *_: None) -> tuple[torch.Tensor, ...]:
    hidden, item_out, (gradient,) = saved.hidden, saved.item_out, saved.outputs
    pairs = _pairs(len(item_out) // 2, hidden.device)
    parts = ((block, grad_losses) for pair in pairs for block in pair)
    return layer_gradients(parts, gradient, hidden, item_out)


def _pairs(n_items: int, device: torch.device) -> list[tuple[Block, Block]]:
    """The blocks of some items' means and log variances at a time."""
    found = [block.at for block in blocks(n_items, device)]
    of_log = [slice(at.start + n_items, at.stop + n_items) for at in found]
    return [(Block(mean, mean), Block(log, log)) for mean, log in zip(found, of_log, strict=True)]
