"""Softmax cross-entropy of a positive among candidate items, without storing their embeddings."""

from __future__ import annotations

import torch

from pdrec_fast.build_info import extension
from pdrec_fast.operands import Candidates, Similarity
from pdrec_fast.ops.candidates._checks import check_candidates
from pdrec_fast.ops.candidates._loss import Outputs, compute, compute_cpp, loss
from pdrec_fast.reference.candidates import sampled_softmax as reference


def sampled_softmax(
    states: torch.Tensor,
    table: torch.Tensor,
    items: torch.Tensor,
    weights: torch.Tensor,
    *,
    similarity: str,
    temperature: float | torch.Tensor,
    sparse_grad: bool = False,
    impl: str = "auto",
) -> torch.Tensor:
    """``(weights * F.cross_entropy(logits, zeros, reduction="none")).sum()``, logits those of
    ``item_logits``: every positive against its own negatives::

        sum_t -w_t log( exp(s_t0) / sum_c exp(s_tc) )

    A state of weight 0, without its positive or without any negative contributes nothing.

    Differentiable, once, in ``states``, ``table`` and a ``temperature`` that is a tensor; no
    gradient flows to ``weights``.

    Args:
        states: [T, d], float32 (half precision is widened; float64 is for the reference).
        table: [N, d], of such a dtype.
        items: int64 or int32 [T, C], rows of the table: a positive, then its negatives; -1 marks an
            absent candidate.
        weights: [T].
        similarity: see ``item_logits``.
        temperature, sparse_grad, impl: see ``weighted_bce``, of which all said there of bits holds
            here.

    Returns:
        Scalar, float32 or wider. On a GPU, NaN where a state that contributes has an item outside
        the table: to refuse it would make the host wait.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or an item is outside the table.
        BackendError: the named implementation cannot run here.
    """
    candidates, how = Candidates(states, table, items), Similarity.of(similarity, temperature)
    check_candidates(candidates, how, weights=weights)
    if not items.shape[1]:
        raise ValueError("items must have a first column, the positives; got shape [T, 0]")
    if weights.shape != states.shape[:1]:
        raise ValueError(f"weights must have shape [{len(states)}], got {tuple(weights.shape)}")
    return compute(
        _sampled_softmax,
        reference.sampled_softmax,
        impl,
        candidates,
        weights,
        similarity=how,
        sparse_grad=sparse_grad,
    )


@loss
def _sampled_softmax(
    candidates: Candidates,
    weights: torch.Tensor,
    similarity: Similarity,
    sparse_grad: bool,
    impl: str = "cpp",
) -> Outputs:
    if impl == "triton":
        from pdrec_fast.kernels.triton.candidates import sampled_softmax as kernels

        return kernels.sampled_softmax(candidates, weights, similarity)
    return compute_cpp(extension.sampled_softmax, candidates, weights, similarity)
