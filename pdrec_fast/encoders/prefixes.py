"""Prefixes of packed sequences as padded rows, for encoders that are not causal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders.base import dropout_key
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed.packed_dropout import packed_dropout
from pdrec_fast.ragged import indptr_of, row_indices
from pdrec_fast.random_keys import ENCODER
from pdrec_fast.reference.counter_rng import ragged_words

_CELLS = 1 << 22  # of a matrix of items by items, for all rows scored at once
CHOICE = ENCODER  # the stream of what is learned from; dropouts take those after it


class Prefixes(NamedTuple):
    """P prefixes of a batch's sequences, each the latest items up to some token.

    The latest item stands first, padding last: an item's column says how far back it lies, however
    long the other rows are.

    Attributes:
        tokens: int64 [P, L], indices among the batch's tokens; anything where there is padding.
        present: bool [P, L], where there is no padding.
        rows: int64 [P], the sequence of each prefix.
    """

    tokens: torch.Tensor
    present: torch.Tensor
    rows: torch.Tensor

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the tokens [T, d] as [P, L, d], 0 in the padding."""
        found = values.index_select(0, self.tokens.flatten())
        return found.view(*self.tokens.shape, values.shape[1]) * self.present.unsqueeze(2)


class Rows(NamedTuple):
    """P rows of at most L places, whose values lie one after the other: [M, d].

    On a CPU the M places are those that are present: of short rows among long ones most is padding.
    A GPU would have to wait for their number, and a traced program must not depend on it, so that
    there they are all P * L.

    Attributes:
        present: bool [P, L]; the first place of every row is.
        indptr: int64 [P + 1], where each row begins and ends among the values.
        at: int64 [M], the places among all P * L; None where they are all of them.
    """

    present: torch.Tensor
    indptr: torch.Tensor
    at: torch.Tensor | None

    @property
    def row(self) -> torch.Tensor:
        """int64 [M], the row of each value."""
        n_rows, length = self.present.shape
        at = self.at
        if at is None:
            at = torch.arange(n_rows * length, device=self.present.device)
        return at.div(length, rounding_mode="floor")

    def flat(self, values: torch.Tensor) -> torch.Tensor:
        """Values [P, L, ...] of all places as [M, ...]."""
        values = values.flatten(0, 1)
        return values if self.at is None else values.index_select(0, self.at)

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """Values [M, ...] as [P, L, ...]; what the padding holds is of no meaning."""
        n_rows, length = self.present.shape
        if self.at is not None:
            all_places = values.new_zeros((n_rows * length, *values.shape[1:]))
            values = all_places.index_copy(0, self.at, values)
        return values.unflatten(0, (n_rows, length))

    def first(self, values: torch.Tensor) -> torch.Tensor:
        """The first value of every row, [P, d]."""
        return values.index_select(0, self.indptr[:-1])

    def after(self, first: torch.Tensor, values: torch.Tensor) -> tuple[Rows, torch.Tensor]:
        """Longer rows, each with one of ``first`` [P, d] before its own values [M, d]."""
        longer = rows_of(F.pad(self.present, (1, 0), value=True))
        order = self.padded(torch.arange(values.shape[0], device=values.device))
        new = values.shape[0] + torch.arange(first.shape[0], device=values.device)
        order = longer.flat(torch.cat([new.unsqueeze(1), order], dim=1))
        return longer, torch.cat([values, first]).index_select(0, order)


def rows_of(present: torch.Tensor) -> Rows:
    """The rows of bool [P, L]."""
    n_rows, length = present.shape
    if present.device.type != "cpu" or torch.compiler.is_compiling():
        ends = torch.arange(n_rows + 1, device=present.device)
        return Rows(present, ends * length, None)
    ends = F.pad(present.sum(1).cumsum(0), (1, 0))
    return Rows(present, ends, present.flatten().nonzero().squeeze(1))


def prefixes_of(batch: PackedSequences, ends: torch.Tensor, length: int) -> Prefixes:
    """The prefixes that end with the tokens ``ends``, int64 [P], of at most ``length`` items."""
    rows = batch.rows.index_select(0, ends)
    tokens = ends.unsqueeze(1) - torch.arange(length, device=ends.device)
    present = tokens >= batch.indptr.index_select(0, rows).unsqueeze(1)
    return Prefixes(tokens.clamp_min(0), present, rows)


class RowDropout(NamedTuple):
    """Dropout of rows by the random numbers of their users.

    All prefixes of a sequence drop the same entries of the same place; their users, and other
    sequences, drop others.

    Attributes:
        p: the share that is dropped.
        key: with a user for every row; None drops nothing.
    """

    p: float
    key: DropoutKey | None

    def __call__(self, x: torch.Tensor, indptr: torch.Tensor, stream: int) -> torch.Tensor:
        """Values x [M, d], row p having ``indptr[p]:indptr[p + 1]``, with the random numbers of
        ``stream``, see ``packed_dropout``."""
        if self.key is None:
            return x
        return packed_dropout(x, indptr, self.p, key=self.key, stream=stream)


class PrefixModel(nn.Module):
    """An encoder that computes every prefix by itself; see ``PrefixEncoder``.

    It learns from the last token of every sequence, and from ``prefixes - 1`` others that are drawn
    anew in every epoch. A subclass has ``prefix_states``; the ``training_states`` here are those.
    """

    recordable = False
    item_embedding: nn.Embedding
    max_length: int
    dropout: float
    prefixes: int

    def forward(self, batch: PackedSequences) -> torch.Tensor:
        """The state after every token, [T, width]."""
        return self.prefix_states(batch, torch.arange(batch.n_tokens, device=batch.items.device))

    @torch.no_grad()
    def last_states(self, batch: PackedSequences) -> torch.Tensor:
        """The state after each sequence's last token, [B, width], without gradient."""
        return in_parts(lambda part: self.prefix_states(part, part.last), batch)

    def prefix_states(self, batch: PackedSequences, tokens: torch.Tensor) -> torch.Tensor:
        """See ``PrefixEncoder.prefix_states``."""
        raise NotImplementedError

    def training_states(
        self, batch: PackedSequences, tokens: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """See ``PrefixEncoder.training_states``."""
        return self.prefix_states(batch, tokens)

    def chosen(self, sequences: PackedSequences) -> np.ndarray:
        """See ``PrefixEncoder.chosen``."""
        words = choice_words(sequences)
        words[sequences.last.numpy()] = -1
        indptr = indptr_of(sequences.host_lengths)
        rows = row_indices(indptr)
        order = np.lexsort((words, rows))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order)) - indptr[rows]
        return rank < self.prefixes

    def _embedded(self, batch: PackedSequences) -> torch.Tensor:
        """The items of all tokens, [T, width], in the scale that SASRec gives them."""
        return self.item_embedding(batch.items) * self.item_embedding.embedding_dim**0.5

    def _dropout(self, batch: PackedSequences, rows: torch.Tensor) -> RowDropout:
        """That of rows which belong to these sequences."""
        if not (self.training and self.dropout):
            return RowDropout(0.0, None)
        key = dropout_key(batch)
        return RowDropout(self.dropout, replace(key, users=key.users.index_select(0, rows)))


def in_parts(
    states: Callable[[PackedSequences], torch.Tensor], batch: PackedSequences
) -> torch.Tensor:
    """``states(batch)`` [B, width], of so many sequences at a time as rows padded to the longest
    leave room for: users are scored many at once, where items are few."""
    size = max(_CELLS // longest(batch) ** 2, 1)
    parts = [states(batch.part(at, at + size)) for at in range(0, max(len(batch), 1), size)]
    return torch.cat(parts)


def longest(batch: PackedSequences) -> int:
    """The columns that all prefixes fit into, at least one; waits for no GPU."""
    return int(batch.host_lengths.max(initial=1))


def choice_words(sequences: PackedSequences) -> np.ndarray:
    """A random word for every token of a batch on the host: int64 [T] in 0 .. 2**32 - 1.

    Raises:
        ValueError: the sequences have no ``dropout_key``.
    """
    key = sequences.dropout_key
    if key is None:
        raise ValueError("a choice needs sequences with a dropout_key: pack(..., seed=...)")
    lengths = torch.from_numpy(sequences.host_lengths)
    words: np.ndarray = ragged_words(key.seed, key.epoch, key.users, lengths, CHOICE).numpy()
    return words
