"""Packed batches of sequences: tokens one after another, equal lengths side by side, no padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pdrec_fast.data.histories import Histories, token_indices


@dataclass(frozen=True)
class PackedSequences:
    """A batch of B sequences with T tokens in all, longest sequence first.

    Sequences of equal length are neighbours, so that a group of n sequences of length L is the
    contiguous view ``tokens[start : start + n * L].view(n, L, ...)``.

    Attributes:
        items: int64 [T], item indices, each sequence oldest first.
        lengths: int64 [B], non-increasing, all at least 1.
        positions: int64 [T], counted from the end: the last token of every sequence has position
            ``max_length - 1``.
        groups: (first token, number of sequences n, length L) of every group.
        sources: int64 [B] numpy, which row of the packed histories each sequence is.
    """

    items: torch.Tensor
    lengths: torch.Tensor
    positions: torch.Tensor
    groups: tuple[tuple[int, int, int], ...]
    sources: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def n_tokens(self) -> int:
        return len(self.items)

    @property
    def last(self) -> torch.Tensor:
        """Index of every sequence's last token, int64 [B]."""
        return self.lengths.cumsum(0) - 1

    def pad(self, tokens: torch.Tensor, length: int) -> torch.Tensor:
        """Right-aligned copy of token values [T, ...] as [B, length, ...], zeros before.

        Raises:
            ValueError: a sequence is longer than ``length``.
        """
        out = tokens.new_zeros((len(self), length, *tokens.shape[1:]))
        rows, columns = self._padded_coordinates(length)
        return out.index_put((rows, columns), tokens)

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """The inverse of ``pad``: [B, length, ...] -> [T, ...]."""
        return padded[self._padded_coordinates(padded.shape[1])]

    def _padded_coordinates(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        longest = int(self.lengths[:1].sum())
        if length < longest:
            raise ValueError(f"length={length} cannot hold the longest sequence, of {longest}")
        rows = torch.repeat_interleave(torch.arange(len(self)), self.lengths)
        from_end = self.last[rows] - torch.arange(self.n_tokens)
        return rows, length - 1 - from_end


def pack(histories: Histories, max_length: int) -> PackedSequences:
    """Pack the last ``max_length`` items of every history.

    Raises:
        ValueError: a history is empty.
    """
    lengths = np.minimum(histories.lengths, max_length)
    if len(lengths) and not lengths.min():
        raise ValueError("a history without items cannot be encoded: leave that user out")
    order = np.argsort(-lengths, kind="stable")
    lengths = lengths[order]
    starts = histories.stops[order] - lengths
    items = histories.items[token_indices(starts, lengths)]
    positions = token_indices(max_length - lengths, lengths)
    distinct, counts = np.unique(-lengths, return_counts=True)
    sizes = -distinct * counts
    groups = zip(np.cumsum(sizes) - sizes, counts, -distinct, strict=True)
    return PackedSequences(
        torch.from_numpy(items.astype(np.int64)),
        torch.from_numpy(lengths),
        torch.from_numpy(positions),
        tuple((int(start), int(n), int(length)) for start, n, length in groups),
        order,
    )
