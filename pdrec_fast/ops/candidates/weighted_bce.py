"""Weighted binary cross-entropy of candidate items, without storing their embeddings."""

from __future__ import annotations

import torch

from pdrec_fast.build_info import extension
from pdrec_fast.ops.candidates._checks import (
    check_candidates,
    check_devices,
    float_array,
    implementations,
    item_indices,
    thread_count,
)
from pdrec_fast.ops.candidates._gradients import register_gradients
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.candidates import weighted_bce as reference


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
    """(loss, by_dot, by_item, by_state); see ``candidate_gradients``."""
    cosine = similarity == "cosine"
    if impl == "triton":
        from pdrec_fast.kernels.triton.candidates import weighted_bce as kernels

        return kernels.weighted_bce(states, table, items, weights, n_positives, cosine, temperature)
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


register_gradients(_weighted_bce)
