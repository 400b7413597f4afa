"""Adam where a table moves by rows: only those that a step's gradient reaches."""

from __future__ import annotations

import torch
from torch import nn

from pdrec_fast.operands import AdamRule, AdamState
from pdrec_fast.ops.fitting.adam_rows import adam_rows


class RowAdam:
    """Steps of an optimiser that move a table's rows as ``adam_rows`` says, all else as ever.

    Rows whose gradient is all zeros stay as they are, with their running means. A sparse gradient
    of the table costs as much as the rows it names; a dense one, such as that of a loss over the
    whole corpus, is read in full, and moves every row where it is not zero. The state stays where
    the optimiser keeps it, so that checkpoints are those of a dense Adam.

    Args:
        optimizer: has its state already, see ``with_state``.
        table: one of its parameters.

    Raises:
        ValueError: a weight decay that is not AdamW's, which needs a gradient of every row.
    """

    def __init__(
        self, optimizer: torch.optim.Adam | torch.optim.AdamW, table: nn.Parameter
    ) -> None:
        groups = optimizer.param_groups
        (self._group,) = [g for g in groups if any(p is table for p in g["params"])]
        self._optimizer, self._table = optimizer, table
        self._decoupled = isinstance(optimizer, torch.optim.AdamW)
        self._rule()

    def step(self) -> None:
        """Move all parameters by their gradients."""
        gradient, self._table.grad = self._table.grad, None
        self._optimizer.step()
        if gradient is None:
            return
        self._table.grad = gradient
        rows = None
        if gradient.is_sparse:
            rows, gradient = gradient._indices()[0], gradient._values()
        moments = self._optimizer.state[self._table]
        moments["step"] += 1
        state = AdamState(self._table, moments["exp_avg"], moments["exp_avg_sq"])
        adam_rows(state, rows, gradient, step=moments["step"], rule=self._rule())

    def _rule(self) -> AdamRule:
        group = self._group
        if group["weight_decay"] and not self._decoupled:
            raise ValueError(
                f"weight_decay={group['weight_decay']}: rows move with decoupled decay alone, "
                "that of torch.optim.AdamW"
            )
        beta1, beta2 = group["betas"]
        return AdamRule(group["lr"], beta1, beta2, group["eps"], group["weight_decay"])
