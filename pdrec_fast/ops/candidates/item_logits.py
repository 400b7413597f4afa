"""Logits of candidate items, without storing the candidates' embeddings."""

from __future__ import annotations

import torch

from pdrec_fast.build_info import extension
from pdrec_fast.operands import Candidates, Similarity
from pdrec_fast.ops.arguments import float_array
from pdrec_fast.ops.candidates._checks import (
    check_candidates,
    cpp_arguments,
    implementations,
    item_indices,
    temperature_value,
    thread_count,
)
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.candidates import item_logits as reference


@torch.no_grad()
def item_logits(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    *,
    similarity: str = "dot",
    temperature: float | torch.Tensor = 1.0,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """``(table[items] @ states[..., None])[..., 0] + bias[items]``, or cosines times a temperature.

    For evaluation and the choice of candidates: no gradient flows through the result.
    ``weighted_bce`` trains.

    Args:
        states: [T, d], float32 (half precision is widened; float64 is for the reference).
        table: [N, d], of such a dtype.
        items: int64 or int32 [T, C], rows of the table; -1 marks an absent candidate.
        similarity: ``"dot"``, or ``"cosine"``: the product of both sides as
            ``torch.nn.functional.normalize`` scales them, times ``temperature``.
        temperature: of the cosine, a number or a floating tensor of shape []; the dot product does
            not use it.
        bias: [N], or None.
        impl: ``"auto"``, ``"triton"`` (on a GPU), ``"cpp"`` or ``"reference"``. The C++ result has
            the same bits whatever the number of threads and the instruction set.

    Returns:
        [T, C], float32 or wider; -inf for absent candidates. On a GPU, NaN for items outside the
        table: to refuse them would make the host wait.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or an item is outside the table.
        BackendError: the named implementation cannot run here.
    """
    candidates, how = Candidates(states, table, items), Similarity.of(similarity, temperature)
    check_candidates(candidates, how, bias=bias)
    if bias is not None and bias.shape != table.shape[:1]:
        raise ValueError(f"bias must have shape [{len(table)}], got {tuple(bias.shape)}")
    chosen = choose("item_logits", impl, implementations(states, table))
    if chosen == "reference":
        item_indices(items.cpu(), len(table))
        return reference.item_logits(candidates, how, bias)
    if chosen == "cpp":
        candidates = Candidates(states.float(), table.float(), items)
    return _item_logits(candidates, how.detached(), None if bias is None else bias.float(), chosen)


@operation(
    fake=lambda a: a.candidates.states.new_empty(a.candidates.items.shape, dtype=torch.float32),
    autocast={"cpu": torch.float32, "cuda": torch.float32},
)
def _item_logits(
    candidates: Candidates, similarity: Similarity, bias: torch.Tensor | None, impl: str = "cpp"
) -> torch.Tensor:
    if impl == "triton":
        from pdrec_fast.kernels.triton.candidates import item_logits as kernels

        return kernels.item_logits(candidates, similarity, bias)
    logits = torch.empty(candidates.items.shape, dtype=torch.float32)
    extension.item_logits(
        *cpp_arguments(candidates),
        similarity.cosine,
        temperature_value(similarity),
        None if bias is None else float_array(bias),
        logits.numpy(),
        thread_count(candidates),
    )
    return logits
