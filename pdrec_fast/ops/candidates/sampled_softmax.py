"""Softmax cross-entropy of a positive among candidate items, without storing their embeddings."""

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
from pdrec_fast.reference.candidates import sampled_softmax as reference


def sampled_softmax(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    weights: torch.Tensor,
    *,
    similarity: str,
    temperature: float,
    sparse_grad: bool = False,
    impl: str = "auto",
) -> torch.Tensor:
    """The other ranking loss: every positive against its own negatives::

        sum_t -w_t log( exp(s_t0) / sum_c exp(s_tc) )

    with ``s`` the logits of ``item_logits``. A state of weight 0, without its positive or without
    any negative contributes nothing.

    Differentiable, once, in ``states`` and ``table``; no gradient flows to ``weights``.

    Args:
        states: [T, d], float32 (half precision is widened; float64 is for the reference).
        table: [N, d], of such a dtype.
        items: int64 or int32 [T, C], rows of the table: a positive, then its negatives; -1 marks an
            absent candidate.
        weights: [T].
        similarity, temperature: see ``item_logits``.
        sparse_grad, impl: see ``weighted_bce``, of which all said there of bits holds here.

    Returns:
        Scalar, float32 or wider. On a GPU, NaN where a state that contributes has an item outside
        the table: to refuse it would make the host wait.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or an item is outside the table.
        BackendError: the named implementation cannot run here.
    """
    check_candidates(states, table, items, similarity, temperature)
    if not items.shape[1]:
        raise ValueError("items must have a first column, the positives; got shape [T, 0]")
    if weights.shape != states.shape[:1]:
        raise ValueError(f"weights must have shape [{len(states)}], got {tuple(weights.shape)}")
    check_devices(states, table=table, items=items, weights=weights)
    settings = (similarity, temperature, sparse_grad)
    chosen = choose("sampled_softmax", impl, implementations(states, table))
    if chosen == "reference":
        item_indices(items.cpu(), len(table))
        return reference.sampled_softmax(states, table, items, weights, *settings)
    if chosen == "cpp":
        states, table = states.float(), table.float()
    return _sampled_softmax(states, table, items, weights.float(), *settings, chosen)[0]


@torch.library.custom_op("pdrec_fast::sampled_softmax", mutates_args=())
def _sampled_softmax(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    weights: torch.Tensor,
    similarity: str,
    temperature: float,
    sparse_grad: bool,
    impl: str = "cpp",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, by_dot, by_item, by_state); see ``candidate_gradients``."""
    cosine = similarity == "cosine"
    if impl == "triton":
        from pdrec_fast.kernels.triton.candidates import sampled_softmax as kernels

        return kernels.sampled_softmax(states, table, items, weights, cosine, temperature)
    by_dot = torch.empty(items.shape, dtype=torch.float32)
    by_item = torch.empty_like(by_dot)
    by_state = torch.empty(len(states), dtype=torch.float32)
    loss = extension.sampled_softmax(
        float_array(states),
        float_array(table),
        item_indices(items, len(table)),
        float_array(weights),
        cosine,
        temperature,
        by_dot.numpy(),
        by_item.numpy(),
        by_state.numpy(),
        thread_count(items, states.shape[1]),
    )
    return torch.tensor(loss, dtype=torch.float32), by_dot, by_item, by_state


register_gradients(_sampled_softmax)
