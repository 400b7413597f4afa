"""Softmax cross-entropy of a positive among negatives that the whole batch shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.build_info import extension
from pdrec_fast.operands import Candidates, LogitGradients, SharedNegatives, Similarity
from pdrec_fast.ops.arguments import check_tensors, float_array
from pdrec_fast.ops.candidates._blocks import (
    Gradients,
    ItemVectors,
    Kernel,
    Products,
    Wanted,
    as_array,
    run,
)
from pdrec_fast.ops.candidates._checks import (
    check_candidates,
    chosen_for,
    cpp_arguments,
    temperature_value,
)
from pdrec_fast.ops.candidates._gradients import backward
from pdrec_fast.ops.candidates._loss import with_temperature
from pdrec_fast.ops.declaration import operation
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
        temperature: see ``weighted_bce``.
        sparse_grad: give the table's gradient as a sparse COO tensor with the rows of candidates
            and negatives only. It need not be coalesced. Not for ``torch.compile``.
        impl: ``"auto"``, ``"triton"`` (on a GPU), ``"cpp"`` or ``"reference"``.

    Returns:
        Scalar, float32 or wider. With ``"cpp"`` in float32 its bits and those of the gradients do
        not depend on the number of threads. On a GPU, NaN where an item is outside the table: to
        refuse it would make the host wait.

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
    chosen, wide = chosen_for("shared_softmax", impl, given)
    if chosen == "reference":
        check_shared(shared, len(table))
        return reference.shared_softmax(given, shared, weights, how, sparse_grad)
    wanted = Wanted.of(states, table)
    outputs = _shared_softmax(
        wide, shared, weights.float(), how.detached(), wanted, sparse_grad, chosen
    )
    return with_temperature(outputs[0], states, outputs[3], how)


Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""The loss, the fields of ``LogitGradients`` of the candidates, those of ``Gradients`` of the
negatives."""


def _like_outputs(a: Any) -> Outputs:
    states, _, items = a.candidates
    gradients = LogitGradients.empty(items)
    parts = Gradients.like(states, len(a.shared.negatives), a.wanted)
    return states.new_empty((), dtype=torch.float32), *gradients, *parts


# Autocast decides on the products alone (``Wanted``); all else is in float32.
@operation(fake=_like_outputs, autocast=dict.fromkeys(("cpu", "cuda"), torch.float32))
def _shared_softmax(
    candidates: Candidates,
    shared: SharedNegatives,
    weights: torch.Tensor,
    similarity: Similarity,
    wanted: Wanted,
    sparse_grad: bool,
    impl: str = "cpp",
) -> Outputs:
    states, _, items = candidates
    of_candidates = LogitGradients.empty(items)
    make = _TritonKernel if impl == "triton" else _CppKernel
    kernel = make(candidates, shared, weights, similarity, of_candidates)
    vectors = ItemVectors(kernel.rows, similarity, wanted.half)
    gradients = run(kernel, states, lambda _: vectors, len(shared.negatives), wanted)
    return kernel.loss, *of_candidates, *gradients


@_shared_softmax.gradient(
    of=["states", "table"],
    saves=["candidates", "shared", "sparse_grad", "impl"],
    outputs=(1, 2, 3, 4, 5),
    constant=(1, 2, 3, 4, 5),
)
def _(
    saved: Any, grad_loss: torch.Tensor, *_: None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    *of_candidates, of_states, of_negatives = saved.outputs
    saved.outputs = tuple(of_candidates)
    grad_states, grad_table = backward(saved, grad_loss)
    if grad_states is not None:
        grad_states = grad_states + grad_loss * of_states
    if grad_table is None:
        return grad_states, None
    # One outside the table, whose gradient is NaN, is refused before on a CPU.
    rows = saved.shared.negatives.clamp(0, len(saved.candidates.table) - 1)
    scaled = (grad_loss * of_negatives).to(grad_table.dtype)
    if not saved.sparse_grad:
        return grad_states, grad_table.index_add(0, rows, scaled)
    both = (
        torch.cat([grad_table._indices(), rows[None]], dim=1),
        torch.cat([grad_table._values(), scaled]),
    )
    shape = saved.candidates.table.shape
    return grad_states, torch.sparse_coo_tensor(*both, shape, check_invariants=False)


class _CppKernel(Kernel):
    multiplies = True

    def __init__(
        self,
        candidates: Candidates,
        shared: SharedNegatives,
        weights: torch.Tensor,
        similarity: Similarity,
        gradients: LogitGradients,
    ) -> None:
        self._candidates = cpp_arguments(candidates)
        self._shared = check_shared(shared, len(candidates.table)), float_array(shared.offsets)
        self._how = similarity.cosine, temperature_value(similarity)
        self.factors, self._losses = torch.empty_like(gradients.grad_state), [0.0]
        self._of_tokens = [float_array(x) for x in (weights, self.factors, *gradients)]
        self.rows = candidates.table.index_select(0, shared.negatives)

    @property
    def loss(self) -> torch.Tensor:
        return torch.tensor(sum(self._losses), dtype=torch.float32)

    def take(self, block: torch.Tensor, tokens: slice, items: slice) -> None:
        self._take(extension.shared_softmax, tokens, as_array(block))

    def take_all(self, products: Products) -> None:
        self._take(extension.shared_softmax_products, slice(None), products)

    def _take(self, kernel: Callable[..., float], tokens: slice, products: Any) -> None:
        states, table, candidates = self._candidates
        weights, *outputs = (x[tokens] for x in self._of_tokens)
        loss = kernel(
            states[tokens],
            table,
            candidates[tokens],
            *self._shared,
            weights,
            *self._how,
            products,
            *outputs,
            torch.get_num_threads(),
        )
        self._losses.append(loss)


class _TritonKernel(Kernel):
    def __init__(
        self,
        candidates: Candidates,
        shared: SharedNegatives,
        weights: torch.Tensor,
        similarity: Similarity,
        gradients: LogitGradients,
    ) -> None:
        states, table, items = candidates
        inside = (shared.negatives >= 0) & (shared.negatives < len(table))
        # Nothing outside the table is read; that it was asked for shows in the loss.
        offsets = shared.offsets.masked_fill(~inside, torch.nan)
        self._candidates = Candidates(states.contiguous(), table.contiguous(), items.contiguous())
        self._shared = SharedNegatives(shared.negatives.contiguous(), offsets.contiguous())
        self._weights, self._similarity = weights.contiguous(), similarity
        self._gradients = gradients
        self.factors = torch.empty_like(gradients.grad_state)
        self._losses = torch.empty_like(self.factors)
        self.rows = table.index_select(0, shared.negatives.clamp(0, len(table) - 1))

    @property
    def loss(self) -> torch.Tensor:
        return self._losses.sum()

    def take(self, block: torch.Tensor, tokens: slice, items: slice) -> None:
        from pdrec_fast.kernels.triton.candidates import shared_softmax as kernels

        states, table, candidates = self._candidates
        kernels.shared_softmax(
            block,
            Candidates(states[tokens], table, candidates[tokens]),
            self._shared,
            self._weights[tokens],
            self._similarity,
            LogitGradients(*(x[tokens] for x in self._gradients)),
            (self._losses[tokens], self.factors[tokens]),
        )


def check_shared(shared: SharedNegatives, n_items: int) -> npt.NDArray[np.int32]:
    """The negatives as the extension takes them.

    Raises:
        ValueError: one outside the table.
    """
    rows = shared.negatives.cpu().numpy()
    outside = (rows < 0) | (rows >= n_items)
    if outside.any():
        at = int(outside.argmax())
        raise ValueError(f"negatives must lie in 0 .. {n_items - 1}, got {rows[at]} at {at}")
    return rows.astype(np.int32)
