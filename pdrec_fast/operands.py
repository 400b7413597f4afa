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

    Column n of the rows stands for item ``first_item + n``.

    Attributes:
        signal, sigma: float32 [B].
        users: int64 [B], in 0 .. 2**32 - 1: whose random words a row takes.
        dropout: p, the share of what is dropped, in [0, 1).
        seed: 64 bits in two's complement, as custom ops take integers.
        epoch: in 0 .. 2**32 - 1.
        first_item: a multiple of 4, since random words come four items to a block.
    """

    signal: torch.Tensor
    sigma: torch.Tensor
    users: torch.Tensor
    dropout: float
    seed: int
    epoch: int
    first_item: int = 0

    @property
    def first_block(self) -> int:
        """The block of words of the first four columns."""
        return self.first_item // 4

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


class Categories(NamedTuple):
    """Categories of items, each with a part of a hidden layer to itself.

    Attributes:
        of_item: int64 [N], from 0 on.
        of_width: int64 [H], rising.
    """

    of_item: torch.Tensor
    of_width: torch.Tensor

    def within(self, table: torch.Tensor) -> torch.Tensor:
        """A table [N, H] with 0 where item and column are of different categories."""
        return torch.where(self.of_item[:, None] == self.of_width, table, 0.0)


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


class SasrecBlock(NamedTuple):
    """Parameters of a block of SASRec of width d, see ``ops.packed.sasrec_block``.

    Attributes:
        query_gain, query_shift: [d], of the norm of the queries.
        in_weight: [3 d, d], the products of queries, keys and values; in_bias: [3 d].
        out_weight: [d, d], after the attention; out_bias: [d].
        gain, shift: [d], of the norm before the feed-forward layers.
        hidden_weight, last_weight: [d, d], of those layers; hidden_bias, last_bias: [d].
    """

    query_gain: torch.Tensor
    query_shift: torch.Tensor
    in_weight: torch.Tensor
    in_bias: torch.Tensor
    out_weight: torch.Tensor
    out_bias: torch.Tensor
    gain: torch.Tensor
    shift: torch.Tensor
    hidden_weight: torch.Tensor
    hidden_bias: torch.Tensor
    last_weight: torch.Tensor
    last_bias: torch.Tensor


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


class AttentionBiases(NamedTuple):
    """What is added to the scores of attention, see ``ops.packed.biased_attention``.

    A bias of time needs ``times`` and ``begins``.

    Attributes:
        distance: float32 [n], of the number of tokens from key to query; a larger one takes the
            last.
        time: float32 [m], of the bucket of the time between the two.
        times: float64 [T], of every token, in the unit of ``begins``.
        begins: float64 [m], rising from 0: the least time of each bucket.
    """

    distance: torch.Tensor | None = None
    time: torch.Tensor | None = None
    times: torch.Tensor | None = None
    begins: torch.Tensor | None = None


class Candidates(NamedTuple):
    """States and the items that a loss or a logit holds against each.

    Attributes:
        states: [T, d].
        table: [N, d], the items' vectors.
        items: int64 or int32 [T, C], rows of the table; -1 marks an absent candidate.
    """

    states: torch.Tensor
    table: torch.Tensor
    items: torch.Tensor


class Similarity(NamedTuple):
    """How state and item make a logit.

    Attributes:
        similarity: ``"dot"`` or ``"cosine"``.
        temperature: what cosines are multiplied by; the dot product does not use it.
        learned: [], in place of ``temperature`` where that is a parameter of the model.
    """

    similarity: str
    temperature: float
    learned: torch.Tensor | None = None

    @classmethod
    def of(cls, similarity: str, temperature: float | torch.Tensor) -> Similarity:
        """With a temperature that is either a number or a tensor."""
        if isinstance(temperature, torch.Tensor):
            return cls(similarity, 1.0, temperature)
        return cls(similarity, temperature)

    def detached(self) -> Similarity:
        """With the learned temperature in float32, without its history."""
        learned = None if self.learned is None else self.learned.detach().float()
        # Not by _replace, which torch.compile of torch 2.6 cannot trace.
        return Similarity(self.similarity, self.temperature, learned)

    @property
    def cosine(self) -> bool:
        return self.similarity == "cosine"

    @property
    def scale(self) -> float | torch.Tensor:
        """What cosines are multiplied by."""
        return self.temperature if self.learned is None else self.learned


class SharedNegatives(NamedTuple):
    """Negatives that all states of a batch are held against.

    Attributes:
        negatives: int64 [K], rows of the table; one that is drawn twice counts twice.
        offsets: float32 [K], what is added to their logits.
    """

    negatives: torch.Tensor
    offsets: torch.Tensor


class LogitGradients(NamedTuple):
    """Derivatives of a loss of candidates' logits, float32, from which those by states and table
    follow.

    A logit depends on ``state . item`` and, for cosines, on the two norms::

        grad_states_t = sum_c grad_dot_tc item_c + grad_state_t state_t
        grad_table_j = sum_{tc: items_tc = j} (grad_dot_tc state_t + grad_item_tc item_j)

    Attributes:
        grad_dot: [T, C], by the products of state and item.
        grad_item: [T, C], the multiple of its own vector in an item's gradient.
        grad_state: [T], the same of a state.
    """

    grad_dot: torch.Tensor
    grad_item: torch.Tensor
    grad_state: torch.Tensor

    @classmethod
    def empty(cls, items: torch.Tensor) -> LogitGradients:
        """Unwritten, for items [T, C] and on their device."""
        grad_dot = torch.empty(items.shape, dtype=torch.float32, device=items.device)
        grad_state = torch.empty(len(items), dtype=torch.float32, device=items.device)
        return cls(grad_dot, torch.empty_like(grad_dot), grad_state)


class Projection(NamedTuple):
    """The scores ``vectors @ table.T + bias``, [B, N], not yet computed.

    Attributes:
        vectors: [B, H].
        table: [N, H].
        bias: [N].
    """

    vectors: torch.Tensor
    table: torch.Tensor
    bias: torch.Tensor


class ObservedRows(NamedTuple):
    """What each of B rows has observed, and where its pool of negatives begins.

    Attributes:
        indptr: int64 [B + 1]; row b has observed ``items[indptr[b]:indptr[b + 1]]``.
        items: int32 [nnz], ascending within a row.
        first_rank: int64 [B], among the unobserved items, from 0.
    """

    indptr: torch.Tensor
    items: torch.Tensor
    first_rank: torch.Tensor


class DrawKey(NamedTuple):
    """Whose random words the draws of each of B rows take.

    Attributes:
        seed: 64 bits, in two's complement where a custom op takes it.
        epoch: in 0 .. 2**32 - 1.
        users: int64 [B], in 0 .. 2**32 - 1.
    """

    seed: int
    epoch: int
    users: torch.Tensor


class AdamState(NamedTuple):
    """A table and what Adam keeps of it, all [N, d].

    Attributes:
        table: the weights.
        exp_avg, exp_avg_sq: the running means of the gradient and of its square.
    """

    table: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor


class AdamRule(NamedTuple):
    """Adam's settings.

    Attributes:
        lr: the rate.
        beta1, beta2: the share of the old in each running mean.
        eps: added to the root of the second mean.
        weight_decay: decoupled; weights shrink by ``lr * weight_decay`` of themselves.
    """

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float = 0.0
