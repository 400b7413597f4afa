"""Arguments that belong together, as named tuples: operations, references and kernels share them.

A custom op's schema has their fields (``ops.declaration``).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import torch

Group = TypeVar("Group", bound=tuple[Any, ...])


def contiguous(group: Group) -> Group:
    """The named tuple with its tensors contiguous."""
    values = (x.contiguous() if isinstance(x, torch.Tensor) else x for x in group)
    return type(group)(*values)


class ItemRows(NamedTuple):
    """Rows over the corpus, x [B, N], by their non-zeros.

    Attributes:
        indptr: int64 [B + 1]; row b has ``items[indptr[b]:indptr[b + 1]]``.
        items: int32 [n], no item twice within a row.
        values: float32 [n], x at those items.
        n_items: N.
    """

    indptr: torch.Tensor
    items: torch.Tensor
    values: torch.Tensor
    n_items: int


class Noise(NamedTuple):
    """What the forward process does to rows x_0: ``keep / (1 - p) * (signal x_0 + sigma eps)``.

    Attributes:
        signal, sigma: float32 [B].
        users: int64 [B], in 0 .. 2**32 - 1: whose random words a row takes.
        dropout: p, the share of what is dropped, in [0, 1).
        seed: 64 bits in two's complement, as custom ops take integers.
        epoch: in 0 .. 2**32 - 1.
    """

    signal: torch.Tensor
    sigma: torch.Tensor
    users: torch.Tensor
    dropout: float
    seed: int
    epoch: int

    @property
    def keep_from(self) -> int:
        """The least word for which an item is kept."""
        return round(self.dropout * 2**32)

    @property
    def keep_scale(self) -> float:
        """What kept items are multiplied by."""
        return 1 / (1 - self.dropout)


class Chain(NamedTuple):
    """The reverse process within a hidden layer of width H, T steps.

    Attributes:
        item_in: [N, H], the items' weights on the way in.
        gram: ``item_out' item_in`` [H, H], of the same dtype.
        bias: ``item_bias' item_in`` [H].
        time: [T, H], what each step adds.
        x0_coefficient, xt_coefficient: float64 [T]; a step is ``x_{t-1} = c1_t x̂_0 + c2_t x_t``.
    """

    item_in: torch.Tensor
    gram: torch.Tensor
    bias: torch.Tensor
    time: torch.Tensor
    x0_coefficient: torch.Tensor
    xt_coefficient: torch.Tensor


class SparseTarget(NamedTuple):
    """A matrix [B, N] by the coordinates of its non-zeros, no pair twice.

    Attributes:
        rows, items: int64 [n].
        values: [n].
    """

    rows: torch.Tensor
    items: torch.Tensor
    values: torch.Tensor


class GruLayer(NamedTuple):
    """Parameters of gated recurrent units, H of them on inputs of width e: reset, update, new.

    Attributes:
        in_weight: W [3 H, e]; in_bias: a [3 H].
        weight: U [3 H, H]; bias: b [3 H].
    """

    in_weight: torch.Tensor
    weight: torch.Tensor
    in_bias: torch.Tensor
    bias: torch.Tensor


class PackedDropout(NamedTuple):
    """Packed sequences and whose random words their dropout takes.

    Attributes:
        indptr: int64 [B + 1]; sequence b has the tokens ``indptr[b]:indptr[b + 1]``.
        users: int64 [B], in 0 .. 2**32 - 1.
        p: share of what is dropped, in [0, 1).
        seed: 64 bits in two's complement, as custom ops take integers.
        epoch, stream: in 0 .. 2**32 - 1.
    """

    indptr: torch.Tensor
    users: torch.Tensor
    p: float
    seed: int
    epoch: int
    stream: int

    @property
    def keep_from(self) -> int:
        """The least word for which an element is kept."""
        return round(self.p * 2**32)

    @property
    def keep_scale(self) -> float:
        """What kept elements are multiplied by."""
        return 1 / (1 - self.p)
