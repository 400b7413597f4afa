"""``sasrec_block`` on the CPU: a batch in parts that stay in the cache, on several threads.

Products of matrices are torch's, into memory that is there; all that lies between them is the
extension's. A part is worked on by one thread, from first to last, and parts are the same whatever
the number of threads, so that the bits are. Gradients of parameters are those of the parts, added
in their order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from pdrec_fast.build_info import extension
from pdrec_fast.operands import PackedDropout, SasrecBlock
from pdrec_fast.ops.packed._sequences import offsets
from pdrec_fast.ops.packed._workers import run_on_threads
from pdrec_fast.reference.packed.sasrec_block import NORM_EPS

_PART_TOKENS = 640
_local = threading.local()


class _Part(NamedTuple):
    """Sequences ``[first, last)`` and their tokens ``[begin, end)``."""

    first: int
    last: int
    begin: int
    end: int


class _States(NamedTuple):
    """What a part's forward pass computes on the way, each [n, d].

    Attributes:
        queries: normalised, before their product.
        attended: before its product.
        total: queries and attention's output.
        normed: what the feed-forward layers read.
        hidden: after ReLU and dropout; positive where both let an element pass.
        projected: queries, keys and values, [n, 3 d].
    """

    queries: torch.Tensor
    attended: torch.Tensor
    total: torch.Tensor
    normed: torch.Tensor
    hidden: torch.Tensor
    projected: torch.Tensor

    @classmethod
    def within(cls, memory: torch.Tensor, n: int, width: int) -> _States:
        planes, projected = memory[: 8 * n * width].split((5 * n * width, 3 * n * width))
        return cls(*planes.view(5, n, width).unbind(), projected.view(n, 3 * width))


class _Statistics(NamedTuple):
    """Of the two norms, [n, 2] each, and of the attention, [2, n, heads]."""

    queries: Any
    forward: Any
    softmax: Any

    @classmethod
    def within(cls, memory: torch.Tensor, n: int, heads: int) -> _Statistics:
        array = memory.numpy()
        return cls(
            array[: 2 * n].reshape(n, 2),
            array[2 * n : 4 * n].reshape(n, 2),
            array[4 * n : (4 + 2 * heads) * n].reshape(2, n, heads),
        )


def gradient_sizes(width: int) -> tuple[int, ...]:
    """Numbers of elements of a block's parameters."""
    square = width * width
    return (
        *(width, width, 3 * square, 3 * width, square, width),
        *(width, width, square, width, square, width),
    )


def _scratch(size: int) -> torch.Tensor:
    """This thread's memory for intermediate results, kept from call to call: at least ``size``."""
    memory = getattr(_local, "memory", None)
    if memory is None or len(memory) < size:
        with torch.inference_mode(False):  # or it could not be written to outside of it
            memory = _local.memory = torch.empty(size)
    return memory


def _parts_of(indptr: np.ndarray) -> list[_Part]:
    """Whole sequences, about as many tokens to each part."""
    n_tokens = int(indptr[-1])
    n_parts = max(1, round(n_tokens / _PART_TOKENS))
    wanted = np.arange(1, n_parts) * (n_tokens / n_parts)
    inner = np.searchsorted(indptr, wanted)
    cuts = np.unique(np.concatenate([[0], inner, [len(indptr) - 1]])).tolist()
    bounds = indptr[cuts].tolist()
    parts = map(_Part, cuts[:-1], cuts[1:], bounds[:-1], bounds[1:])
    return [part for part in parts if part.end > part.begin]


class BlockParts:
    """A block on a batch x [T, d], contiguous, float32."""

    def __init__(
        self, x: torch.Tensor, words: PackedDropout, block: SasrecBlock, heads: int
    ) -> None:
        self.x, self.words, self.heads = x.detach(), words, heads
        self.width = x.shape[1]
        self.indptr = offsets(words.indptr, len(x))
        self.users = words.users.contiguous().numpy()
        self.parts = _parts_of(self.indptr)
        self.block = SasrecBlock(*(p.detach().contiguous() for p in block))
        self.vectors = SasrecBlock(*(p.numpy() for p in self.block))
        self.in_weights = self.block.in_weight.split((self.width, 2 * self.width))
        self.in_biases = self.block.in_bias.split((self.width, 2 * self.width))

    def forward(
        self,
        out: torch.Tensor,
        states: torch.Tensor,
        statistics: torch.Tensor,
        kept: torch.Tensor,
    ) -> None:
        """Write the outputs of ``_sasrec_block``, the last three unless they are empty."""
        keep, d, per_token = len(states) > 0, self.width, 4 + 2 * self.heads

        def part_forward(part: _Part) -> None:
            n = part.end - part.begin
            if keep:
                own_states = states[8 * part.begin * d : 8 * part.end * d]
                own_statistics = statistics[per_token * part.begin : per_token * part.end]
            else:
                memory = _scratch((8 * d + per_token) * n)
                own_states, own_statistics = memory, memory[8 * d * n :]
            self._forward(
                part,
                out[part.begin : part.end],
                _States.within(own_states, n, d),
                _Statistics.within(own_statistics, n, self.heads),
                kept[part.begin : part.end].numpy() if len(kept) else None,
            )

        self._run(part_forward, self.parts)

    def backward(
        self,
        grad_out: torch.Tensor,
        states: torch.Tensor,
        statistics: torch.Tensor,
        kept: torch.Tensor,
        grad_x: torch.Tensor,
    ) -> torch.Tensor:
        """Write the gradient of x; returns those of the parameters, one after another."""
        d, per_token = self.width, 4 + 2 * self.heads
        gradients = self.x.new_empty((len(self.parts), sum(gradient_sizes(d))))
        states, statistics, grad_out = states.detach(), statistics.detach(), grad_out.detach()

        def part_backward(numbered: tuple[int, _Part]) -> None:
            number, part = numbered
            n = part.end - part.begin
            self._backward(
                part,
                grad_out[part.begin : part.end],
                _States.within(states[8 * part.begin * d : 8 * part.end * d], n, d),
                _Statistics.within(
                    statistics[per_token * part.begin : per_token * part.end], n, self.heads
                ),
                kept[part.begin : part.end].numpy() if len(kept) else None,
                grad_x[part.begin : part.end],
                gradients[number],
            )

        self._run(part_backward, list(enumerate(self.parts)))
        return gradients[0] if len(gradients) == 1 else gradients.sum(0)

    def _run(self, work: Callable[[Any], None], parts: list[Any]) -> None:
        with torch.no_grad():
            run_on_threads(work, parts)

    def _words(self, part: _Part, offset: int) -> tuple[Any, ...]:
        """The extension's ``words`` of a part's dropout in one of the block's three streams."""
        words = self.words
        return (
            self.indptr[part.first : part.last + 1] - part.begin,
            self.users[part.first : part.last],
            words.keep_from,
            words.keep_scale,
            words.seed % 2**64,
            words.epoch,
            words.stream + offset,
        )

    def _heads_of(self, projected: torch.Tensor) -> Any:
        """Queries, keys and values [n, 3 d] as three views [n, heads, d / heads]."""
        return projected.numpy().reshape(len(projected), 3, self.heads, -1).swapaxes(0, 1)

    def _forward(
        self, part: _Part, out: torch.Tensor, s: _States, statistics: _Statistics, kept: Any
    ) -> None:
        ours, p, v = extension.sasrec_block, self.block, self.vectors
        x, d = self.x[part.begin : part.end], self.width
        queries, normed, hidden = s.queries.numpy(), s.normed.numpy(), s.hidden.numpy()
        attended = s.attended.numpy().reshape(len(x), self.heads, -1)
        ours.norm(
            *(x.numpy(), None, None, v.query_gain, v.query_shift, NORM_EPS),
            *(queries, statistics.queries),
        )
        (w_q, w_kv), (b_q, b_kv) = self.in_weights, self.in_biases
        torch.addmm(b_q, s.queries, w_q.t(), out=s.projected[:, :d])
        torch.addmm(b_kv, x, w_kv.t(), out=s.projected[:, d:])
        words = self._words(part, 0)
        extension.packed_attention(
            *self._heads_of(s.projected), words, attended, statistics.softmax, 1
        )
        torch.mm(s.attended, p.out_weight.t(), out=s.total)
        ours.norm(
            *(queries, s.total.numpy(), v.out_bias, v.gain, v.shift, NORM_EPS),
            *(normed, statistics.forward),
        )
        torch.mm(s.normed, p.hidden_weight.t(), out=s.hidden)
        ours.dropout(hidden, v.hidden_bias, self._words(part, 1), None, None, hidden)
        torch.mm(s.hidden, p.last_weight.t(), out=out)
        into = out.numpy()
        ours.dropout(into, v.last_bias, self._words(part, 2), normed, kept, into)

    def _backward(
        self,
        part: _Part,
        grad_out: torch.Tensor,
        s: _States,
        statistics: _Statistics,
        kept: Any,
        grad_x: torch.Tensor,
        gradients: torch.Tensor,
    ) -> None:
        ours, p, v, d = extension.sasrec_block, self.block, self.vectors, self.width
        x, n, scale = self.x[part.begin : part.end], len(grad_out), self.words.keep_scale
        sizes = gradient_sizes(d)
        g = SasrecBlock(
            *(each.view(q.shape) for each, q in zip(gradients.split(sizes), p, strict=True))
        )
        by = SasrecBlock(*(each.numpy() for each in g))
        memory = _scratch(7 * n * d)[: 7 * n * d]
        planes, grad_projected = memory.split((4 * n * d, 3 * n * d))
        grad_last, grad_hidden, grad_normed, grad_total = planes.view(4, n, d).unbind()
        grad_projected = grad_projected.view(n, 3 * d)
        upstream, hidden = grad_out.numpy(), grad_hidden.numpy()

        if kept is None:
            grad_last = grad_out
        ours.dropout_gradient(
            *(upstream, None, kept, scale),
            *(None if kept is None else grad_last.numpy(), by.last_bias),
        )
        torch.mm(grad_last.t(), s.hidden, out=g.last_weight)
        torch.mm(grad_last, p.last_weight, out=grad_hidden)
        ours.dropout_gradient(hidden, s.hidden.numpy(), None, scale, hidden, by.hidden_bias)
        torch.mm(grad_hidden.t(), s.normed, out=g.hidden_weight)
        torch.mm(grad_hidden, p.hidden_weight, out=grad_normed)
        ours.norm_gradient(
            *(grad_normed.numpy(), upstream, s.total.numpy(), statistics.forward, v.gain, False),
            *(grad_total.numpy(), by.gain, by.shift, by.out_bias),
        )
        torch.mm(grad_total.t(), s.attended, out=g.out_weight)
        grad_attended = torch.mm(grad_total, p.out_weight, out=grad_normed)
        extension.packed_attention_backward(
            grad_attended.numpy().reshape(n, self.heads, -1),
            *self._heads_of(s.projected),
            self._words(part, 0),
            statistics.softmax,
            *self._heads_of(grad_projected),
            1,
        )
        ours.dropout_gradient(grad_projected.numpy(), None, None, 1.0, None, by.in_bias)
        grad_q, grad_kv = grad_projected.split((d, 2 * d), dim=1)
        torch.mm(grad_q.t(), s.queries, out=g.in_weight[:d])
        torch.mm(grad_kv.t(), x, out=g.in_weight[d:])
        torch.mm(grad_q, self.in_weights[0], out=grad_hidden)
        torch.mm(grad_kv, self.in_weights[1], out=grad_x)
        ours.norm_gradient(
            *(hidden, grad_total.numpy(), x.numpy(), statistics.queries, v.query_gain, True),
            *(grad_x.numpy(), by.query_gain, by.query_shift, None),
        )
