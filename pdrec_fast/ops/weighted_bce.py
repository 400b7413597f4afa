"""Weighted binary cross-entropy of candidate items, without storing their embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pdrec_fast.build_info import extension
from pdrec_fast.ops.candidates import (
    check_candidates,
    check_devices,
    float_array,
    implementations,
    item_indices,
    thread_count,
)
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference import weighted_bce as reference


def weighted_bce(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    weights: torch.Tensor,
    n_positives: int,
    *,
    similarity: str,
    temperature: float,
    sparse_grad: bool = False,
    impl: str = "auto",
) -> torch.Tensor:
    """The losses of PDRec's objective (paper, eqs. 4 and 5), their means expressed by weights::

        sum_t [ sum_{c < P} -w_tc log σ(s_tc) + sum_{c >= P} -w_tc log(1 - σ(s_tc)) ]

    with P = ``n_positives`` and ``s`` the logits of ``item_logits``. An absent candidate
    contributes nothing whatever its weight, and one of weight 0 is not read except by the
    reference.

    Differentiable, once, in ``states`` and ``table``; no gradient flows to ``weights``.

    Args:
        states: [T, d], float32 (half precision is widened; float64 is for the reference).
        table: [N, d], of such a dtype.
        items: int64 or int32 [T, C], rows of the table; -1 marks an absent candidate.
        weights: [T, C].
        n_positives: in 0 .. C; the first so many columns are positives, the others negatives.
        similarity, temperature: see ``item_logits``.
        sparse_grad: give the table's gradient as a sparse COO tensor with the rows of the
            candidates only, as ``torch.nn.functional.embedding(sparse=True)`` does. The C++ and
            Triton implementations sum the places of an item; from C++ it comes coalesced, from
            Triton with a row of zeros for every repetition, whose number the host does not know.
            Not for ``torch.compile``.
        impl: ``"auto"``, ``"triton"`` (on a GPU), ``"cpp"`` or ``"reference"``. The C++ results,
            gradients included, have the same bits whatever the number of threads and the
            instruction set. Triton's dense gradient of the table is added in any order, unless
            ``torch.use_deterministic_algorithms(True)``.

    Returns:
        Scalar, float32 or wider. On a GPU, NaN where an item is outside the table: to refuse it
        would make the host wait.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or an item is outside the table.
        BackendError: the named implementation cannot run here.
    """
    check_candidates(states, table, items, similarity, temperature)
    if weights.shape != items.shape:
        raise ValueError(
            f"weights must have the shape of items, {tuple(items.shape)}, "
            f"got {tuple(weights.shape)}"
        )
    if not 0 <= n_positives <= items.shape[1]:
        raise ValueError(f"n_positives must lie in 0 .. {items.shape[1]}, got {n_positives}")
    check_devices(states, table=table, items=items, weights=weights)
    settings = (n_positives, similarity, temperature, sparse_grad)
    chosen = choose("weighted_bce", impl, implementations(states, table))
    if chosen == "reference":
        item_indices(items.cpu(), len(table))
        return reference.weighted_bce(states, table, items, weights, *settings)
    if chosen == "cpp":
        states, table = states.float(), table.float()
    return _weighted_bce(states, table, items, weights.float(), *settings, chosen)[0]


def _triton() -> Any:
    from pdrec_fast.kernels.triton import weighted_bce as kernels

    return kernels


@torch.library.custom_op("pdrec_fast::weighted_bce", mutates_args=())
def _weighted_bce(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    weights: torch.Tensor,
    n_positives: int,
    similarity: str,
    temperature: float,
    sparse_grad: bool,
    impl: str = "cpp",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, by_dot [T, C], by_item [T, C], by_state [T]).

    The last three make the gradients: those of the loss by the products ``state . item`` and, for
    cosines, the multiples of its own vector that an item's or a state's gradient has.
    """
    cosine = similarity == "cosine"
    if impl == "triton":
        return _triton().weighted_bce(
            states, table, items, weights, n_positives, cosine, temperature
        )
    by_dot = torch.empty(items.shape, dtype=torch.float32)
    by_item = torch.empty_like(by_dot)
    by_state = torch.empty(len(states), dtype=torch.float32)
    loss = extension.weighted_bce(
        float_array(states),
        float_array(table),
        item_indices(items, len(table)),
        float_array(weights),
        n_positives,
        cosine,
        temperature,
        by_dot.numpy(),
        by_item.numpy(),
        by_state.numpy(),
        thread_count(items, states.shape[1]),
    )
    return torch.tensor(loss, dtype=torch.float32), by_dot, by_item, by_state


@_weighted_bce.register_fake
def _(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    weights: torch.Tensor,
    n_positives: int,
    similarity: str,
    temperature: float,
    sparse_grad: bool,
    impl: str = "cpp",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    like_items = states.new_empty(items.shape, dtype=torch.float32)
    return (
        like_items.new_empty(()),
        like_items,
        torch.empty_like(like_items),
        like_items.new_empty(len(states)),
    )


@torch.library.custom_op("pdrec_fast::weighted_bce_states", mutates_args=())
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
    extension.weighted_bce_states(
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


@torch.library.custom_op("pdrec_fast::weighted_bce_table", mutates_args=())
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


@torch.library.custom_op("pdrec_fast::weighted_bce_table_rows", mutates_args=())
def _table_rows(
    upstream: torch.Tensor,
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    by_dot: torch.Tensor,
    by_item: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows of the table, int64 [T C], with repetitions; what to add to each, [T C, d])."""
    return _triton().sparse_table_gradient(upstream, states, table, items, by_dot, by_item)


@_table_rows.register_fake
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
    extension.weighted_bce_table(
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


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    states, table, items, *_, ctx.sparse_grad, ctx.impl = inputs
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
            rows, sums = _table_rows(*arguments)
            of_table = torch.sparse_coo_tensor(
                rows[None], sums, table.shape, check_invariants=False
            )
        else:
            of_table = _gradient_of_items(*arguments, sparse=True)
    return of_states, of_table, *(None,) * 7


_weighted_bce.register_autograd(_backward, setup_context=_setup_context)
# A loss stays in float32, as torch's do. On a GPU the copy of narrow states is [T, d] alone.
for _device in ("cpu", "cuda"):
    _weighted_bce.register_autocast(_device, torch.float32)
