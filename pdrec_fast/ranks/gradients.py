"""Sums over processes inside a backward pass, and gradients that every process has a part of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from pdrec_fast.ranks.axis import Axis


class _SumForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, axis: Axis) -> torch.Tensor:
        return axis.sum_(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0], None


class _SumBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, axis: Axis) -> torch.Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        summed = grads[0].clone(memory_format=torch.contiguous_format)
        return ctx.axis.sum_(summed), None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, axis: Axis) -> torch.Tensor:
        parts = axis.gathered(rows)
        start = sum(len(part) for part in parts[: axis.rank])
        ctx.axis, ctx.own = axis, slice(start, start + len(rows))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0][ctx.own] * ctx.axis.size, None


def sum_forward(x: torch.Tensor, axis: Axis) -> torch.Tensor:
    """The sum of the processes' x; its gradient, which all of them have, is that of each x."""
    if axis.size == 1:
        return x
    summed: torch.Tensor = _SumForward.apply(x, axis)
    return summed


def sum_backward(x: torch.Tensor, axis: Axis) -> torch.Tensor:
    """x, which all processes have; its gradient is the sum of theirs."""
    if axis.size == 1:
        return x
    same: torch.Tensor = _SumBackward.apply(x, axis)
    return same


def gathered_rows(rows: torch.Tensor, axis: Axis) -> torch.Tensor:
    """The rows of all processes, in their order, for a loss that each takes of all rows and counts
    as one part in ``axis.size``: the gradient of its own rows is the sum over the processes."""
    if axis.size == 1:
        return rows
    all_rows: torch.Tensor = _Gathered.apply(rows, axis)
    return all_rows


@torch.no_grad()
def sum_gradients(parameters: Iterable[torch.nn.Parameter], axis: Axis) -> None:
    """Give every parameter the sum of the processes' gradients, in one message for each dtype.

    A parameter without a gradient counts as zeros. One that no process has a gradient of is
    left without, so that an optimiser passes it by as it does in one process.
    """
    if axis.size == 1:
        return
    by_dtype: dict[torch.dtype, list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for group in by_dtype.values():
        given = [parameter.grad is not None for parameter in group]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
        counts = torch.tensor(given, dtype=grads[0].dtype).to(grads[0].device, non_blocking=True)
        flat = axis.sum_(torch.cat([*(grad.reshape(-1) for grad in grads), counts]))
        *pieces, counts = flat.split([*(grad.numel() for grad in grads), len(grads)])
        # Read, which waits for the device, only where something is missing.
        anywhere = given if all(given) else counts.gt(0).tolist()
        for parameter, grad, piece, is_there in zip(group, grads, pieces, anywhere, strict=True):
            grad.copy_(piece.view_as(grad))
            parameter.grad = grad if is_there else None


@torch.no_grad()
def sum_rows_of(
    rows: torch.Tensor, values: torch.Tensor, axis: Axis
) -> tuple[torch.Tensor, torch.Tensor]:
    """A table's gradient that every process has some rows of, summed over the processes.

    Args:
        rows: int64 [n], which rows; one may come many times.
        values: [n, d].

    Returns:
        (int64 [R], float [R, d]): the rows that any process has, ascending, and their sums.
    """
    union = union_of(rows, axis)
    sums = values.new_zeros((len(union), values.shape[1]))
    sums.index_add_(0, torch.searchsorted(union, rows), values)
    return union, axis.sum_(sums)


def union_of(numbers: torch.Tensor, axis: Axis) -> torch.Tensor:
    """The distinct numbers of all processes, int64 [R], ascending."""
    own = numbers.unique()
    return own if axis.size == 1 else torch.cat(axis.gathered(own)).unique()
