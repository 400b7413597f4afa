"""Softmax cross-entropy of a positive among all items, without storing all logits."""

from __future__ import annotations

import torch

from pdrec_fast.operands import Candidates, Similarity
from pdrec_fast.ops.candidates._checks import check_candidates
from pdrec_fast.ops.candidates._shared_loss import compute
from pdrec_fast.reference.candidates import corpus_softmax as reference


def corpus_softmax(
    states: torch.Tensor,
    table: torch.Tensor,
    positives: torch.Tensor,
    weights: torch.Tensor,
    *,
    similarity: str,
    temperature: float | torch.Tensor,
    impl: str = "auto",
) -> torch.Tensor:
    """``(weights * F.cross_entropy(logits, positives, reduction="none")).sum()``, logits [T, N]
    those of ``item_logits`` for all items, which are never stored together::

        sum_t -w_t log( exp(s_t,p_t) / sum_j exp(s_tj) )

    It is ``shared_softmax`` with every item as a negative and offsets of 0. A state of weight 0 or
    without its positive contributes nothing.

    Differentiable, once, in ``states``, ``table`` and a ``temperature`` that is a tensor; no
    gradient flows to ``weights``. The table's gradient is dense.

    Args:
        states: [T, d], float32 or bfloat16 (float64 is for the reference).
        table: [N, d], of such a dtype.
        positives: int64 or int32 [T], rows of the table; -1 where there is none.
        weights: [T].
        similarity, temperature, impl: see ``shared_softmax``, of which all said there of dtypes
            holds here.

    Returns:
        Scalar, float32 or wider. On a GPU, NaN where a positive is outside the table: to refuse it
        would make the host wait.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or an item is outside the table.
        BackendError: the named implementation cannot run here.
    """
    if positives.ndim != 1:
        raise ValueError(f"positives must have shape [T], got {tuple(positives.shape)}")
    given = Candidates(states, table, positives[:, None])
    how = Similarity.of(similarity, temperature)
    check_candidates(given, how, weights=weights)
    if weights.shape != states.shape[:1]:
        raise ValueError(f"weights must have shape [{len(states)}], got {tuple(weights.shape)}")
    return compute(
        "corpus_softmax",
        lambda: reference.corpus_softmax(given, weights, how),
        given,
        None,
        weights,
        how,
        impl,
        sparse_grad=False,
    )
