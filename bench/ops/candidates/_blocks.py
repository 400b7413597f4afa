"""Losses of a batch's states against the same items, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bench.ops.candidates._candidates import SETTINGS
from bench.registry import Case, Floor, Implementation, call
from bench.target import eager, target

TOY = {"items": 37_868, "width": 64}
BEAUTY = {"items": 12_101, "width": 128}
TOKENS = 1_400  # of a batch of 128 users


def block_loss_case(
    of_package: Callable[..., torch.Tensor],
    plain: Callable[..., torch.Tensor],
    leaves: tuple[torch.Tensor, torch.Tensor],
    others: tuple[torch.Tensor, ...],
    n_items: int,
    **settings: Any,
) -> Case:
    """A loss of (states, table, *others) against ``n_items`` items. In bfloat16 are states and
    products; the table is a parameter, in float32.

    The floor is three products of matrices: logits, and the gradients of states and items.
    """
    states, table = leaves[0].requires_grad_(), leaves[1].float().requires_grad_()
    wide_leaves = tuple(x.detach().float().requires_grad_() for x in leaves)

    def gradients(forward: Callable[..., torch.Tensor], *leaves: torch.Tensor) -> tuple:
        value = forward(*leaves, *others)
        return value.detach(), *torch.autograd.grad(value, leaves)

    def package(impl: str, **keywords: Any) -> Callable[..., torch.Tensor]:
        return partial(of_package, **SETTINGS, impl=impl, **keywords)

    wide, on_gpu = states.dtype == torch.float32, target().gpu
    reference = call(gradients, package("reference"), *wide_leaves)

    def fast(impl: str) -> Implementation:
        run = partial(gradients, package(impl, **settings), states, table)
        return Implementation(lambda: run, lambda: tuple(x.to_dense() for x in run()))

    return Case(
        {impl: fast(impl) for impl in target().kernels}
        | {"reference": Implementation(reference.prepare, timed=not on_gpu)}
        | eager(
            "torch eager", lambda forward: gradients(forward, states, table), plain, comparable=wide
        ),
        reference="reference",
        baseline="torch eager" if on_gpu else "",
        floor=Floor(
            bytes=states.itemsize * states.shape[1] * 2 * (len(states) + n_items),
            flops=6 * len(states) * n_items * states.shape[1],
            dtype="fp32" if wide else "bf16",
        ),
        rtol=1e-4 if wide else 2e-2,
        atol=1e-4,
        by_norm=not wide,
    )
