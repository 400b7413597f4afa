"""Packed batches of sequences: tokens one after another, equal lengths side by side, no padding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pdrec_fast.data.histories import Histories
from pdrec_fast.devices import to_device
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ragged import indptr_of, ranges


@dataclass(frozen=True)
class PackedSequences:
    """A batch of B sequences with T tokens in all, longest sequence first.

    Attributes:
        items: int64 [T], item indices, each sequence oldest first.
        indptr: int64 [B + 1]; sequence b has the tokens ``indptr[b]:indptr[b + 1]``.
        positions: int64 [T], counted from the end: the last token of every sequence has position
            ``max_length - 1``.
        host_lengths: int64 [B] numpy, the lengths on the host; reading them waits for no GPU.
        sources: int64 [B] numpy, which row of the packed histories each sequence is.
        dropout_key: the key (seed, epoch, users) of the random numbers of an encoder's dropouts;
            without one, an encoder draws a new seed from torch's generator.
        times: float64 [T], when each item was taken, in the data's unit; None where nobody asked
            for them, or they are not known.
    """

    items: torch.Tensor
    indptr: torch.Tensor
    positions: torch.Tensor
    host_lengths: np.ndarray
    sources: np.ndarray
    dropout_key: DropoutKey | None = None
    times: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def n_tokens(self) -> int:
        """T."""
        return len(self.items)

    @property
    def lengths(self) -> torch.Tensor:
        """int64 [B], non-increasing, all at least 1."""
        return self.indptr.diff()

    @property
    def last(self) -> torch.Tensor:
        """Index of every sequence's last token, int64 [B]."""
        return self.indptr[1:] - 1

    @property
    def rows(self) -> torch.Tensor:
        """int64 [T], the sequence of every token; takes no look at the device."""
        return torch.repeat_interleave(self.lengths, output_size=self.n_tokens)

    def to(self, device: torch.device) -> PackedSequences:
        """This batch on a device; ``host_lengths`` and ``sources`` stay on the host."""
        key = self.dropout_key
        if key is not None:
            key = replace(key, users=to_device(key.users, device))
        items, indptr, positions = (
            to_device(tensor, device) for tensor in (self.items, self.indptr, self.positions)
        )
        times = None if self.times is None else to_device(self.times, device)
        return PackedSequences(
            items, indptr, positions, self.host_lengths, self.sources, key, times
        )

    def part(self, start: int, stop: int) -> PackedSequences:
        """The sequences from ``start`` up to ``stop``; waits for no GPU."""
        bounds = indptr_of(self.host_lengths)
        tokens, chosen = slice(bounds[start], bounds[min(stop, len(self))]), slice(start, stop)
        key, times = self.dropout_key, self.times
        return PackedSequences(
            self.items[tokens],
            self.indptr[start : stop + 1] - int(bounds[start]),
            self.positions[tokens],
            self.host_lengths[chosen],
            self.sources[chosen],
            None if key is None else replace(key, users=key.users[chosen]),
            None if times is None else times[tokens],
        )

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
        rows = self.rows
        from_end = self.last[rows] - torch.arange(self.n_tokens, device=rows.device)
        return rows, length - 1 - from_end


def pack(
    histories: Histories,
    max_length: int,
    *,
    seed: int | None = None,
    epoch: int = 0,
    times: bool = False,
) -> PackedSequences:
    """Pack the last ``max_length`` items of every history.

    Args:
        histories: B of them, none empty.
        max_length: longest sequence.
        seed, epoch: with the histories' users, the key of the encoder's dropouts; None for the seed
            sets no key.
        times: pack the timestamps too, where the histories have them.

    Raises:
        ValueError: a history is empty.
    """
    lengths = np.minimum(histories.lengths, max_length)
    if len(lengths) and not lengths.min():
        raise ValueError("a history without items cannot be encoded: leave that user out")
    order = np.argsort(-lengths, kind="stable")
    lengths = lengths[order]
    starts = histories.stops[order] - lengths
    records = ranges(starts, lengths)
    items = histories.items[records].astype(np.int64)
    users = torch.from_numpy(histories.users[order])
    key = None if seed is None else DropoutKey(seed, epoch, users)
    packed = packed_tokens(items, lengths, max_length, order, key)
    if not times or histories.timestamps is None:
        return packed
    return replace(packed, times=torch.from_numpy(histories.timestamps[records]))


def packed_tokens(
    items: np.ndarray,
    lengths: np.ndarray,
    max_length: int,
    sources: np.ndarray,
    key: DropoutKey | None,
) -> PackedSequences:
    """Sequences of these lengths (longest first, at most ``max_length``) as a batch on the host.

    Args:
        items: int64 [T], the sequences' items one after another.
        lengths, sources: int64 [B].
        key: of the dropouts, with the users of the B sequences; or None.
    """
    return PackedSequences(
        torch.from_numpy(items),
        torch.from_numpy(indptr_of(lengths)),
        torch.from_numpy(ranges(max_length - lengths, lengths)),
        lengths,
        sources,
        key,
    )
