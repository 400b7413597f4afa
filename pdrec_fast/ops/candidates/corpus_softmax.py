"""Softmax cross-entropy of a positive among all items, without storing all logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pdrec_fast.build_info import extension
from pdrec_fast.operands import Candidates, Similarity
from pdrec_fast.ops.arguments import float_array
from pdrec_fast.ops.candidates._blocks import (
    Gradients,
    ItemVectors,
    Kernel,
    Products,
    Wanted,
    as_array,
    run,
    scaled,
)
from pdrec_fast.ops.candidates._checks import (
    check_candidates,
    chosen_for,
    item_indices,
    temperature_value,
)
from pdrec_fast.ops.candidates._loss import with_temperature
from pdrec_fast.ops.declaration import operation
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
    given = Candidates(states, table, positives.unsqueeze(1))
    how = Similarity.of(similarity, temperature)
    check_candidates(given, how, weights=weights)
    if weights.shape != states.shape[:1]:
        raise ValueError(f"weights must have shape [{len(states)}], got {tuple(weights.shape)}")
    chosen, wide = chosen_for("corpus_softmax", impl, given)
    if chosen == "reference":
        return reference.corpus_softmax(given, weights, how)
    wanted = Wanted.of(states, table)
    outputs = _corpus_softmax(wide, weights.float(), how.detached(), wanted, chosen)
    return with_temperature(outputs[0], states, outputs[1], how)


Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""The loss, ``grad_state`` of ``LogitGradients``, the fields of ``Gradients`` of all items."""


def _like_outputs(a: Any) -> Outputs:
    states, table, _ = a.candidates
    grad_state = states.new_empty(len(states), dtype=torch.float32)
    parts = Gradients.like(states, len(table), a.wanted)
    return grad_state.new_empty(()), grad_state, *parts


# Autocast decides on the products alone (``Wanted``); all else is in float32.
@operation(fake=_like_outputs, autocast=dict.fromkeys(("cpu", "cuda"), torch.float32))
def _corpus_softmax(
    candidates: Candidates,
    weights: torch.Tensor,
    similarity: Similarity,
    wanted: Wanted,
    impl: str = "cpp",
) -> Outputs:
    states, table, _ = candidates
    grad_state = torch.empty(len(states), dtype=torch.float32, device=states.device)
    make = _TritonKernel if impl == "triton" else _CppKernel
    kernel = make(candidates, weights, similarity, grad_state)

    def vectors(items: slice) -> ItemVectors:
        return ItemVectors(table[items], similarity, wanted.half)

    gradients = run(kernel, states, vectors, len(table), wanted)
    if wanted.of_states:
        gradients.states.add_(scaled(states, grad_state[:, None]))
    return kernel.loss, grad_state, *gradients


@operation(fake=lambda a: a.gradient.new_empty(a.gradient.shape))
def _corpus_gradient(
    grad_loss: torch.Tensor, of: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """``of`` is there for autograd, which refuses derivatives of what has no formula: without it
    second derivatives would silently be 0."""
    return grad_loss * gradient


@_corpus_softmax.gradient(
    of=["states", "table"], saves=["candidates"], outputs=(2, 3), constant=(1, 2, 3)
)
def _(
    saved: Any, grad_loss: torch.Tensor, *_: None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    of_states, of_table = saved.outputs
    states, table, _ = saved.candidates
    return (
        _corpus_gradient(grad_loss, states, of_states) if "states" in saved.needs else None,
        _corpus_gradient(grad_loss, table, of_table) if "table" in saved.needs else None,
    )


class _CppKernel(Kernel):
    splits = multiplies = True

    def __init__(
        self,
        candidates: Candidates,
        weights: torch.Tensor,
        similarity: Similarity,
        grad_state: torch.Tensor,
    ) -> None:
        states, table, items = candidates
        self._n_items = len(table)
        positives = item_indices(items, self._n_items)[:, 0]
        squares, totals = states.square().sum(dim=1), np.empty((len(states), 4))
        self._of_rows = float_array(squares), positives, float_array(weights), totals
        self._how = similarity.cosine, temperature_value(similarity)
        self.factors, self._losses = torch.empty_like(grad_state), [0.0]
        self._outputs = float_array(self.factors), float_array(grad_state)

    @property
    def loss(self) -> torch.Tensor:
        return torch.tensor(sum(self._losses), dtype=torch.float32)

    def take(self, block: torch.Tensor, tokens: slice, items: slice) -> None:
        factors, grad_state = (x[tokens] for x in self._outputs)
        loss = extension.corpus_softmax(
            as_array(block),
            items.start,
            self._of_tokens(tokens),
            *self._how,
            items.start == 0,
            items.stop == self._n_items,
            factors,
            grad_state,
            torch.get_num_threads(),
        )
        self._losses.append(loss)

    def take_all(self, products: Products) -> None:
        loss = extension.corpus_softmax_products(
            products, self._of_rows, *self._how, *self._outputs, torch.get_num_threads()
        )
        self._losses.append(loss)

    def exponentials(self, block: torch.Tensor, tokens: slice, items: slice) -> None:
        extension.corpus_derivatives(
            as_array(block),
            items.start,
            self._of_tokens(tokens),
            *self._how,
            torch.get_num_threads(),
        )

    def _of_tokens(self, tokens: slice) -> tuple[Any, Any, Any, Any]:
        squares, positives, weights, totals = self._of_rows
        return squares[tokens], positives[tokens], weights[tokens], totals[tokens]


class _TritonKernel(Kernel):
    splits = True

    def __init__(
        self,
        candidates: Candidates,
        weights: torch.Tensor,
        similarity: Similarity,
        grad_state: torch.Tensor,
    ) -> None:
        from pdrec_fast.kernels.triton.candidates import corpus_softmax as kernels

        states, table, items = candidates
        self._kernels, self._similarity, self._n_items = kernels, similarity, len(table)
        squares, totals = states.square().sum(dim=1), states.new_empty((len(states), 4))
        positives = items[:, 0].contiguous()
        self._rows = kernels.CorpusRows(squares, positives, weights.contiguous(), totals)
        self.factors = torch.empty_like(grad_state)
        self._outputs = torch.empty_like(grad_state), self.factors, grad_state

    @property
    def loss(self) -> torch.Tensor:
        return self._outputs[0].sum()

    def take(self, block: torch.Tensor, tokens: slice, items: slice) -> None:
        losses, factors, grad_state = (x[tokens] for x in self._outputs)
        outputs = losses, factors, grad_state
        rows = self._rows.of(tokens)
        self._kernels.corpus_softmax(block, items, self._n_items, rows, self._similarity, outputs)

    def exponentials(self, block: torch.Tensor, tokens: slice, items: slice) -> None:
        self._kernels.corpus_derivatives(block, items, self._rows.of(tokens), self._similarity)
