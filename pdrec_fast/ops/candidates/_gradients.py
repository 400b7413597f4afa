"""Gradients of a loss of candidates' logits, without storing the candidates' embeddings.

The gradients of states and table follow from ``operands.LogitGradients``, which a loss gives
beside its value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pdrec_fast.build_info import extension
from pdrec_fast.operands import Candidates, LogitGradients
from pdrec_fast.ops.arguments import float_array
from pdrec_fast.ops.candidates._checks import cpp_arguments, thread_count
from pdrec_fast.ops.declaration import operation


def _triton() -> Any:
    from pdrec_fast.kernels.triton.candidates import _gradients as kernels

    return kernels


@operation(fake=lambda a: a.candidates.states.new_empty(a.candidates.states.shape))
def _states_gradient(
    grad_loss: torch.Tensor, candidates: Candidates, gradients: LogitGradients, impl: str = "cpp"
) -> torch.Tensor:
    """[T, d]."""
    if impl == "triton":
        return _triton().states_gradient(grad_loss, candidates, gradients)
    out = torch.empty(candidates.states.shape, dtype=torch.float32)
    extension.states_gradient(
        *cpp_arguments(candidates),
        float(grad_loss),
        float_array(gradients.grad_dot),
        float_array(gradients.grad_state),
        out.numpy(),
        thread_count(candidates),
    )
    return out


@operation(fake=lambda a: a.candidates.table.new_empty(a.candidates.table.shape))
def _table_gradient(
    grad_loss: torch.Tensor, candidates: Candidates, gradients: LogitGradients, impl: str = "cpp"
) -> torch.Tensor:
    """[N, d]."""
    if impl == "triton":
        return _triton().table_gradient(grad_loss, candidates, gradients)
    return _cpp_table_gradient(grad_loss, candidates, gradients, sparse=False)


def _like_rows(a: Any) -> tuple[torch.Tensor, torch.Tensor]:
    _, table, items = a.candidates
    n_places = items.numel()
    return (
        items.new_empty(n_places, dtype=torch.int64),
        table.new_empty((n_places, table.shape[1])),
    )


@operation(fake=_like_rows)
def _table_gradient_rows(
    grad_loss: torch.Tensor, candidates: Candidates, gradients: LogitGradients
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows of the table, int64 [T C], with repetitions; what to add to each, [T C, d])."""
    return _triton().table_gradient_rows(grad_loss, candidates, gradients)


def _cpp_table_gradient(
    grad_loss: torch.Tensor, candidates: Candidates, gradients: LogitGradients, *, sparse: bool
) -> torch.Tensor:
    states, table, indices = cpp_arguments(candidates)
    groups = extension.group_by_item(indices)
    if sparse:
        out = torch.empty((len(groups[0]), table.shape[1]), dtype=torch.float32)
    else:
        # torch.zeros would wake torch's threads, which then spin beside the kernel's.
        out = torch.from_numpy(np.zeros(table.shape, dtype=np.float32))
    extension.table_gradient(
        states,
        table,
        indices,
        *groups,
        float(grad_loss),
        float_array(gradients.grad_dot),
        float_array(gradients.grad_item),
        sparse,
        out.numpy(),
        thread_count(candidates),
    )
    out = out.to(candidates.table.dtype)
    if not sparse:
        return out
    rows = torch.from_numpy(groups[0]).long()[None]
    return torch.sparse_coo_tensor(
        rows, out, table.shape, is_coalesced=True, check_invariants=False
    )


def backward(
    saved: Any, grad_loss: torch.Tensor, *_: None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The gradients of states and table, of a loss that saved its candidates, ``sparse_grad``,
    ``impl`` and, as outputs, its derivatives."""
    given = grad_loss, saved.candidates, LogitGradients(*saved.outputs)
    grad_states = grad_table = None
    if "states" in saved.needs:
        grad_states = _states_gradient(*given, saved.impl)
    if "table" in saved.needs:
        if not saved.sparse_grad:
            grad_table = _table_gradient(*given, saved.impl)
        elif saved.impl == "triton":
            rows, sums = _table_gradient_rows(*given)
            grad_table = torch.sparse_coo_tensor(
                rows[None], sums, saved.candidates.table.shape, check_invariants=False
            )
        else:
            grad_table = _cpp_table_gradient(*given, sparse=True)
    return grad_states, grad_table
