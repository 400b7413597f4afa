"""Gradients of a loss of candidates' logits, without storing the candidates' embeddings.

Beside its value such a loss gives ``by_dot`` [T, C], its derivatives by the products ``state .
item``, and, for cosines, the multiples of its own vector that the gradient of an item,
``by_item`` [T, C], or of a state, ``by_state`` [T], has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pdrec_fast.build_info import extension
from pdrec_fast.ops.candidates._checks import float_array, item_indices, thread_count


def register_gradients(loss: torch.library.CustomOpDef) -> None:
    """Make a custom op differentiable, once, in ``states`` and ``table``; it computes in float32
    under autocast, as torch's losses do.

    Args:
        loss: takes ``(states, table, items, ..., sparse_grad, impl)`` and returns float32 ``(loss,
            by_dot, by_item, by_state)``.
    """
    loss.register_fake(_like_outputs)
    loss.register_autograd(_backward, setup_context=_setup_context)
    # On a GPU the copy of narrow states is [T, d] alone.
    for device in ("cpu", "cuda"):
        loss.register_autocast(device, torch.float32)


def _triton() -> Any:
    from pdrec_fast.kernels.triton.candidates import _gradients as kernels

    return kernels


@torch.library.custom_op("pdrec_fast::states_gradient", mutates_args=())
def _states_gradient(
    upstream: torch.Tensor,
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    by_dot: torch.Tensor,
    by_state: torch.Tensor,
    impl: str = "cpp",
) -> torch.Tensor:
    """[T, d]."""
    if impl == "triton":
        return _triton().states_gradient(upstream, states, table, items, by_dot, by_state)
    out = torch.empty(states.shape, dtype=torch.float32)
    extension.states_gradient(
        float_array(states),
        float_array(table),
        item_indices(items, len(table)),
        float(upstream),
        float_array(by_dot),
        float_array(by_state),
        out.numpy(),
        thread_count(items, states.shape[1]),
    )
    return out


@_states_gradient.register_fake
def _(
    upstream: torch.Tensor,
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    by_dot: torch.Tensor,
    by_state: torch.Tensor,
    impl: str = "cpp",
) -> torch.Tensor:
    return states.new_empty(states.shape)


@torch.library.custom_op("pdrec_fast::table_gradient", mutates_args=())
def _table_gradient(
    upstream: torch.Tensor,
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    by_dot: torch.Tensor,
    by_item: torch.Tensor,
    impl: str = "cpp",
) -> torch.Tensor:
    """[N, d]."""
    if impl == "triton":
        return _triton().table_gradient(upstream, states, table, items, by_dot, by_item)
    return _gradient_of_items(upstream, states, table, items, by_dot, by_item, sparse=False)


@_table_gradient.register_fake
def _(
    upstream: torch.Tensor,
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    by_dot: torch.Tensor,
    by_item: torch.Tensor,
    impl: str = "cpp",
) -> torch.Tensor:
    return table.new_empty(table.shape)


@torch.library.custom_op("pdrec_fast::table_gradient_rows", mutates_args=())
def _table_gradient_rows(
    upstream: torch.Tensor,
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    by_dot: torch.Tensor,
    by_item: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows of the table, int64 [T C], with repetitions; what to add to each, [T C, d])."""
    return _triton().sparse_table_gradient(upstream, states, table, items, by_dot, by_item)


@_table_gradient_rows.register_fake
def _(
    upstream: torch.Tensor,
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    by_dot: torch.Tensor,
    by_item: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    n_places = items.numel()
    return (
        items.new_empty(n_places, dtype=torch.int64),
        table.new_empty((n_places, table.shape[1])),
    )


def _gradient_of_items(
    upstream: torch.Tensor,
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    by_dot: torch.Tensor,
    by_item: torch.Tensor,
    *,
    sparse: bool,
) -> torch.Tensor:
    indices = item_indices(items, len(table))
    groups = extension.group_by_item(indices)
    if sparse:
        out = torch.empty((len(groups[0]), table.shape[1]), dtype=torch.float32)
    else:
        # torch.zeros would wake torch's threads, which then spin beside the kernel's.
        out = torch.from_numpy(np.zeros(table.shape, dtype=np.float32))
    extension.table_gradient(
        float_array(states),
        float_array(table),
        indices,
        *groups,
        float(upstream),
        float_array(by_dot),
        float_array(by_item),
        sparse,
        out.numpy(),
        thread_count(items, states.shape[1]),
    )
    if not sparse:
        return out
    rows = torch.from_numpy(groups[0]).long()[None]
    return torch.sparse_coo_tensor(
        rows, out, table.shape, is_coalesced=True, check_invariants=False
    )


def _like_outputs(
    states: torch.Tensor, table: torch.Tensor, items: torch.Tensor, *_: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    like_items = states.new_empty(items.shape, dtype=torch.float32)
    return (
        like_items.new_empty(()),
        like_items,
        torch.empty_like(like_items),
        like_items.new_empty(len(states)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    states, table, items, *_, ctx.sparse_grad, ctx.impl = inputs
    ctx.n_constants = len(inputs) - 2
    _, *derivatives = output
    ctx.mark_non_differentiable(*derivatives)
    ctx.save_for_backward(states, table, items, *derivatives)


def _backward(
    ctx: Any, upstream: torch.Tensor, *_: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    states, table, items, by_dot, by_item, by_state = ctx.saved_tensors
    of_states = of_table = None
    if ctx.needs_input_grad[0]:
        of_states = _states_gradient(upstream, states, table, items, by_dot, by_state, ctx.impl)
    if ctx.needs_input_grad[1]:
        arguments = (upstream, states, table, items, by_dot, by_item)
        if not ctx.sparse_grad:
            of_table = _table_gradient(*arguments, ctx.impl)
        elif ctx.impl == "triton":
            rows, sums = _table_gradient_rows(*arguments)
            of_table = torch.sparse_coo_tensor(
                rows[None], sums, table.shape, check_invariants=False
            )
        else:
            of_table = _gradient_of_items(*arguments, sparse=True)
    return of_states, of_table, *(None,) * ctx.n_constants
