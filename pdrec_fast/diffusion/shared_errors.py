"""Errors of the denoiser over the whole corpus, where every process has its share of the items."""

from __future__ import annotations

import torch

from pdrec_fast.ops.denoising.corpus_cross_entropy import corpus_cross_entropy
from pdrec_fast.ops.denoising.corpus_error import corpus_error
from pdrec_fast.ranks import Axis
from pdrec_fast.ranks.gradients import sum_forward

Coordinates = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # rows, items, values


def shared_corpus_error(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    target: Coordinates,
    axis: Axis,
    n_items: int,
) -> torch.Tensor:
    """``ops.corpus_error`` over N items, of which these are this process's: [B]."""
    own = corpus_error(hidden, item_out, item_bias, *target)
    return own if axis.size == 1 else sum_forward(own * (len(item_out) / n_items), axis)


def shared_cross_entropy(
    hidden: torch.Tensor,
    item_out: torch.Tensor,
    item_bias: torch.Tensor,
    target: Coordinates,
    axis: Axis,
) -> torch.Tensor:
    """``ops.corpus_cross_entropy`` over the items of all processes along ``axis``: [B].

    It is ``sum(x) lse - sum(x s)``, s the scores and lse the logarithm of their summed
    exponentials. What a process adds to that sum is the operation's own for a target of one unit on
    its first item, ``lse - s_0``.
    """
    if axis.size == 1:
        return corpus_cross_entropy(hidden, item_out, item_bias, *target)
    rows, items, values = target
    everyone = torch.arange(len(hidden), device=hidden.device)
    unit = everyone, torch.zeros_like(everyone), torch.ones_like(everyone, dtype=values.dtype)
    scores_of_first = hidden @ item_out[0].to(hidden.dtype) + item_bias[0].to(hidden.dtype)
    own = corpus_cross_entropy(hidden, item_out, item_bias, *unit) + scores_of_first
    largest = torch.cat(axis.gathered(own.detach()[None])).amax(dim=0)
    lse = largest + sum_forward((own - largest).exp(), axis).log()
    scores = (hidden[rows] * item_out[items].to(hidden.dtype)).sum(dim=1) + item_bias[items]
    found = torch.zeros_like(own)
    pulled = sum_forward(found.index_add(0, rows, values * scores.to(own.dtype)), axis)
    total = axis.sum_(found.index_add(0, rows, values.to(own.dtype)))
    return total * lse - pulled
