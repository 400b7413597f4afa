"""Tensors with a row for each item, of which every process along an axis has its share."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from pdrec_fast.ranks.axis import Axis

Tensors = dict[str, torch.Tensor]
_ROWS_TOGETHER = 4  # random words come four items at a time


class RowShards:
    """Which rows are whose.

    Args:
        axis: of the processes that share them.
        n_rows: N, items.
        names: of the tensors, as in a state dict; an optimiser's state of them is meant, too.

    Attributes:
        rows: this process's.

    Raises:
        ValueError: there are fewer items than it takes for each process to have some.
    """

    def __init__(self, axis: Axis, n_rows: int, names: Collection[str]) -> None:
        self.axis, self.n_rows, self.names = axis, n_rows, tuple(names)
        self.rows = axis.share(n_rows, _ROWS_TOGETHER)
        if axis.shares(n_rows, _ROWS_TOGETHER)[-1].start >= n_rows:
            raise ValueError(
                f"{n_rows} items are too few for a mesh with items={axis.size}: choose fewer"
            )

    def own(self, tensors: Mapping[str, torch.Tensor]) -> Tensors:
        """This process's rows of whole tensors; tensors of other names as they are."""
        return {
            name: tensor[self.rows].clone() if self._is_sharded(name, tensor) else tensor
            for name, tensor in tensors.items()
        }

    def whole(self, tensors: Mapping[str, torch.Tensor]) -> Tensors:
        """The whole tensors, of everybody's rows, on the host; all along the axis must call it."""
        return {
            name: self.joined(tensor).cpu() if self._is_sharded(name, tensor) else tensor
            for name, tensor in tensors.items()
        }

    def joined(self, rows: torch.Tensor) -> torch.Tensor:
        """[N, ...] of everybody's rows, on their device."""
        return torch.cat(self.axis.gathered(rows.detach()))

    def _is_sharded(self, name: str, tensor: torch.Tensor) -> bool:
        if self.axis.size == 1 or not tensor.ndim:
            return False
        return any(name == each or name.endswith(f".{each}") for each in self.names)
