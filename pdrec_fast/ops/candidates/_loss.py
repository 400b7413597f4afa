"""What losses of candidates' logits share: a new one adds its formula and its documentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pdrec_fast.operands import Candidates, LogitGradients, Similarity
from pdrec_fast.ops.arguments import float_array
from pdrec_fast.ops.candidates._checks import (
    cpp_arguments,
    implementations,
    item_indices,
    temperature_value,
    thread_count,
)
from pdrec_fast.ops.candidates._gradients import backward
from pdrec_fast.ops.declaration import Operation, operation
from pdrec_fast.ops.dispatch import choose

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""The loss, and the fields of ``LogitGradients``."""


def loss(function: Callable[..., Outputs]) -> Operation:
    """Declare an op ``(candidates, ..., sparse_grad, impl) -> Outputs``, differentiable once in
    states and table. Under autocast it computes in float32, as torch's losses do.
    """
    # On a GPU the copy of narrow states is [T, d] alone.
    declared = operation(fake=_like_outputs, autocast=dict.fromkeys(("cpu", "cuda"), torch.float32))
    op, derivatives = declared(function), (1, 2, 3)
    op.gradient(
        of=["states", "table"],
        saves=["candidates", "sparse_grad", "impl"],
        outputs=derivatives,
        constant=derivatives,
    )(backward)
    return op


def compute(
    op: Operation,
    reference: Callable[..., torch.Tensor],
    impl: str,
    candidates: Candidates,
    weights: torch.Tensor,
    *own: Any,
    similarity: Similarity,
    sparse_grad: bool,
) -> torch.Tensor:
    """The loss by the chosen implementation; op and reference take the same arguments, those of
    this loss alone in ``own``."""
    states, table, items = candidates
    chosen = choose(reference.__name__, impl, implementations(states, table))
    if chosen == "reference":
        item_indices(items.cpu(), len(table))
        return reference(candidates, weights, *own, similarity, sparse_grad)
    if chosen == "cpp":
        # The table is widened within: autograd's way back would not take a sparse gradient.
        candidates = Candidates(states.float(), table, items)
    given = candidates, weights.float(), *own, similarity.detached(), sparse_grad
    value, _, _, grad_state = op(*given, chosen)
    return with_temperature(value, states, grad_state, similarity)


def with_temperature(
    value: torch.Tensor, states: torch.Tensor, grad_state: torch.Tensor, similarity: Similarity
) -> torch.Tensor:
    """The same loss, differentiable in a learned temperature τ too.

    ``τ dL/dτ = sum_tc z_tc dL/dz_tc`` over all logits z, of which ``grad_state``, the multiple of a
    state in its own gradient, holds each state's part divided by ``-|state|^2``. States of a norm
    below ``normalize``'s eps have no such multiple and count as zeros.
    """
    learned = similarity.learned
    if learned is None or not learned.requires_grad:
        return value
    squares = states.detach().float().square().sum(dim=1)
    slope = -(grad_state * squares).sum() / learned.detach().float()
    return value + (learned - learned.detach()).float() * slope


def compute_cpp(
    kernel: Callable[..., float],
    candidates: Candidates,
    weights: torch.Tensor,
    similarity: Similarity,
    *settings: Any,
) -> Outputs:
    """Outputs of a loss of the extension; ``settings`` are those that it does not share."""
    gradients = LogitGradients.empty(candidates.items)
    value = kernel(
        *cpp_arguments(candidates),
        float_array(weights),
        *settings,
        similarity.cosine,
        temperature_value(similarity),
        *(gradient.numpy() for gradient in gradients),
        thread_count(candidates),
    )
    return torch.tensor(value, dtype=torch.float32), *gradients


def _like_outputs(a: Any) -> Outputs:
    states, _, items = a.candidates
    like_items = states.new_empty(items.shape, dtype=torch.float32)
    return (
        like_items.new_empty(()),
        like_items,
        torch.empty_like(like_items),
        like_items.new_empty(len(states)),
    )
