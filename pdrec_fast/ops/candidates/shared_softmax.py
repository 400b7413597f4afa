"""Softmax cross-entropy of a positive among negatives that the whole batch shares."""

from __future__ import annotations

import torch

from pdrec_fast.operands import Candidates, SharedNegatives, Similarity
from pdrec_fast.ops.arguments import check_tensors
from pdrec_fast.ops.candidates._checks import check_candidates
from pdrec_fast.ops.candidates._shared_loss import compute
from pdrec_fast.reference.candidates import shared_softmax as reference


def shared_softmax(
    states: torch.Tensor,
    table: torch.Tensor,
    candidates: torch.Tensor,
    negatives: torch.Tensor,
    offsets: torch.Tensor,
    weights: torch.Tensor,
    *,
    similarity: str,
    temperature: float | torch.Tensor,
    sparse_grad: bool = False,
    impl: str = "auto",
) -> torch.Tensor:
    """``(weights * F.cross_entropy(cat([own, shared], 1), zeros, reduction="none")).sum()``, where
    ``own`` are the logits of ``item_logits(states, table, candidates)`` and ``shared`` those of
    ``negatives`` plus ``offsets``, but for a state's own positive::

        sum_t -w_t log( exp(s_t0) / (sum_c exp(s_tc) + sum_{i: n_i != c_t0} exp(s_t,n_i + o_i)) )

    With K negatives drawn uniformly from N items and offsets ``log(N / K)``, or drawn with
    probabilities q and offsets ``-log(K q_i)``, the sum over the negatives estimates that over the
    corpus (the log-Q correction: Bengio and Senécal, 2008; Yi et al., RecSys 2019).

    A state of weight 0, without its positive or without any negative contributes nothing.

    Differentiable, once, in ``states``, ``table`` and a ``temperature`` that is a tensor; no
    gradient flows to ``offsets`` and ``weights``.

    Args:
        states: [T, d], float32 or bfloat16 (float64 is for the reference).
        table: [N, d], of such a dtype.
        candidates: int64 or int32 [T, 1 + k], rows of the table: a positive, then negatives of this
            state alone, of which there may be none; -1 marks an absent candidate.
        negatives: int64 [K], rows of the table; one that is drawn twice counts twice. A negative
            that is the positive of a state is left out there.
        offsets: float32 [K].
        weights: [T].
        similarity: see ``item_logits``.
        temperature: of the cosine, a number or a floating tensor of shape [] that may require a
            gradient; the dot product does not use it.
        sparse_grad: give the table's gradient as a sparse COO tensor with the rows of candidates
            and negatives only. It need not be coalesced. Not for ``torch.compile``.
        impl: ``"auto"``, ``"triton"`` (on a GPU), ``"cpp"`` or ``"reference"``.

    Returns:
        Scalar, float32 or wider. On a GPU, NaN where an item is outside the table: to refuse it
        would make the host wait.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or an item is outside the table.
        BackendError: the named implementation cannot run here.
    """
    given = Candidates(states, table, candidates)
    how = Similarity.of(similarity, temperature)
    check_candidates(given, how, weights=weights, negatives=negatives, offsets=offsets)
    if not candidates.shape[1]:
        raise ValueError("candidates must have a first column, the positives; got shape [T, 0]")
    if weights.shape != states.shape[:1]:
        raise ValueError(f"weights must have shape [{len(states)}], got {tuple(weights.shape)}")
    dtypes = torch.int64, torch.float32
    check_tensors(("negatives", "offsets"), (negatives, offsets), dtypes, [negatives.numel()] * 2)
    shared = SharedNegatives(negatives, offsets)
    return compute(
        "shared_softmax",
        lambda: reference.shared_softmax(given, shared, weights, how, sparse_grad),
        given,
        shared,
        weights,
        how,
        impl,
        sparse_grad=sparse_grad,
    )
