"""Weighted binary cross-entropy of candidate items, without storing their embeddings."""

from __future__ import annotations

import torch

from pdrec_fast.build_info import extension
from pdrec_fast.operands import Candidates, Similarity
from pdrec_fast.ops.candidates._checks import check_candidates
from pdrec_fast.ops.candidates._loss import Outputs, compute, compute_cpp, loss
from pdrec_fast.reference.candidates import weighted_bce as reference


def weighted_bce(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    weights: torch.Tensor,
    n_positives: int,
    *,
    similarity: str,
    temperature: float | torch.Tensor,
    sparse_grad: bool = False,
    impl: str = "auto",
) -> torch.Tensor:
    """``F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")``, logits
    those of ``item_logits``: PDRec's losses (paper, eqs. 4 and 5), their means in the weights::

        sum_t [ sum_{c < P} -w_tc log σ(s_tc) + sum_{c >= P} -w_tc log(1 - σ(s_tc)) ]

    with P = ``n_positives``. An absent candidate contributes nothing whatever its weight, and one
    of weight 0 is not read except by the reference.

    Differentiable, once, in ``states``, ``table`` and a ``temperature`` that is a tensor; no
    gradient flows to ``weights``.

    Args:
        states: [T, d], float32 (half precision is widened; float64 is for the reference).
        table: [N, d], of such a dtype.
        items: int64 or int32 [T, C], rows of the table; -1 marks an absent candidate.
        weights: [T, C].
        n_positives: in 0 .. C; the first so many columns are positives, the others negatives.
        similarity: see ``item_logits``.
        temperature: of the cosine, a number or a floating tensor of shape [] that may require a
            gradient; the dot product does not use it.
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
    candidates, how = Candidates(states, table, items), Similarity.of(similarity, temperature)
    check_candidates(candidates, how, weights=weights)
    if weights.shape != items.shape:
        raise ValueError(
            f"weights must have the shape of items, {tuple(items.shape)}, "
            f"got {tuple(weights.shape)}"
        )
    if not 0 <= n_positives <= items.shape[1]:
        raise ValueError(f"n_positives must lie in 0 .. {items.shape[1]}, got {n_positives}")
    return compute(
        _weighted_bce,
        reference.weighted_bce,
        impl,
        candidates,
        weights,
        n_positives,
        similarity=how,
        sparse_grad=sparse_grad,
    )


@loss
def _weighted_bce(
    candidates: Candidates,
    weights: torch.Tensor,
    n_positives: int,
    similarity: Similarity,
    sparse_grad: bool,
    impl: str = "cpp",
) -> Outputs:
    if impl == "triton":
        from pdrec_fast.kernels.triton.candidates import weighted_bce as kernels

        return kernels.weighted_bce(candidates, weights, n_positives, similarity)
    return compute_cpp(extension.weighted_bce, candidates, weights, similarity, n_positives)
