"""The counter-based random generator that every random operation shares.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed by the
seed; the counter is (block, user, epoch, stream). Whoever computes a number, in whatever batch,
gets the same one. ``pdrec_fast.random_keys`` says which stream is for what.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

_WORD = 0xFFFFFFFF
Words = TypeVar("Words", torch.Tensor, npt.NDArray[np.int64])


def philox4x32(counter: torch.Tensor, key: tuple[int, int]) -> torch.Tensor:
    """Ten rounds of Philox4x32.

    Args:
        counter: int64 [..., 4] of 32-bit words.
        key: two 32-bit words.

    Returns:
        int64 [..., 4] of 32-bit words.
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key
    for _ in range(10):
        # An int64 product wraps, but keeps all 64 bits; the mask undoes the sign of the shift.
        p0, p2 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (p2 >> 32 & _WORD) ^ c1 ^ k0,
            p2 & _WORD,
            (p0 >> 32 & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = k0 + 0x9E3779B9 & _WORD, k1 + 0xBB67AE85 & _WORD
    return torch.stack((c0, c1, c2, c3), dim=-1)


def words(
    seed: int,
    epoch: int,
    users: npt.NDArray[np.int64],
    n_words: int,
    stream: int,
    first_block: int = 0,
) -> torch.Tensor:
    """The first words of (seed, epoch, user, stream), from block ``first_block`` on.

    Word j is word j % 4 of block j // 4.

    Args:
        seed: 64-bit.
        epoch: 32-bit.
        users: int64 [B], 32-bit.
        n_words: number of words per user.
        stream: which of this user's streams, 32-bit.
        first_block: where to start.

    Returns:
        int64 [B, n_words] in 0 .. 2**32 - 1.
    """
    n_blocks = -(-n_words // 4)
    counter = torch.empty((len(users), n_blocks, 4), dtype=torch.int64)
    counter[..., 0] = torch.arange(first_block, first_block + n_blocks)
    counter[..., 1] = torch.as_tensor(users).unsqueeze(1)
    counter[..., 2] = epoch
    counter[..., 3] = stream
    return philox4x32(counter, (seed & _WORD, seed >> 32)).flatten(1)[:, :n_words]


def ragged_words(
    seed: int, epoch: int, users: torch.Tensor, n_words: torch.Tensor, stream: int
) -> torch.Tensor:
    """The first ``n_words[b]`` words of every user b, one user after another.

    Args:
        seed: 64-bit; epoch, stream: 32-bit.
        users, n_words: int64 [B].

    Returns:
        int64 [sum of n_words] in 0 .. 2**32 - 1.
    """
    users, n_words = users.cpu(), n_words.cpu()
    n_blocks = (n_words + 3) // 4
    first = (n_blocks.cumsum(0) - n_blocks).repeat_interleave(n_blocks)
    counter = torch.empty((len(first), 4), dtype=torch.int64)
    counter[:, 0] = torch.arange(len(first)) - first
    counter[:, 1] = users.repeat_interleave(n_blocks)
    counter[:, 2] = epoch
    counter[:, 3] = stream
    word = philox4x32(counter, (seed & _WORD, seed >> 32 & _WORD))
    left = n_words.repeat_interleave(n_blocks) - 4 * counter[:, 0]
    return word[torch.arange(4) < left[:, None]]


def bounded(word: Words, n: int | Words) -> Words:
    """Words as integers in 0 .. n - 1, ``(word * n) >> 32``, for n < 2**31."""
    return word * n >> 32
