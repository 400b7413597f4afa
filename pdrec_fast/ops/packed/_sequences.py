"""What operations on packed sequences share: the key of their dropout, and their arguments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.build_info import extension_problem
from pdrec_fast.operands import PackedDropout
from pdrec_fast.ops.arguments import autocast_dtype, check_dropout, random_keys, signed_seed


@dataclass(frozen=True, eq=False)
class DropoutKey:
    """Whose random numbers the dropouts of a batch take.

    What is dropped of a sequence depends on (seed, epoch, its user) and the operation's stream
    alone, whatever else is in the batch.

    Attributes:
        seed: in 0 .. 2**64 - 1.
        epoch: in 0 .. 2**32 - 1.
        users: int64 [B], in 0 .. 2**32 - 1, one for each sequence of the batch, in its order.

    Raises:
        ValueError: a part is out of its range. Users on a GPU are not looked at: that would wait
            for it.
    """

    seed: int
    epoch: int
    users: torch.Tensor

    def __post_init__(self) -> None:
        if self.users.ndim != 1 or self.users.dtype != torch.int64:
            raise ValueError(
                "users must be an int64 tensor of shape [B], got "
                f"{self.users.dtype} of shape {tuple(self.users.shape)}"
            )
        users = self.users if self.users.device.type == "cpu" else ()
        random_keys(self.seed, self.epoch, users, len(users))


def packed_dropout_of(
    indptr: torch.Tensor, p: float, key: DropoutKey | None, stream: int
) -> PackedDropout:
    """The arguments of an operation on packed sequences, checked.

    Raises:
        ValueError: ``indptr`` of another type, ``p`` out of its range, or a key that is missing or
            belongs to another number of sequences.
    """
    if indptr.ndim != 1 or not len(indptr) or indptr.dtype != torch.int64:
        raise ValueError(
            "indptr must be an int64 tensor of shape [B + 1], got "
            f"{indptr.dtype} of shape {tuple(indptr.shape)}"
        )
    check_dropout(p)
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream must lie in 0 .. 2**32 - 1, got {stream}")
    if p == 0:
        return PackedDropout(indptr, indptr[1:], 0.0, 0, 0, stream)
    if key is None:
        raise ValueError(f"dropout={p} needs a key: pass key=DropoutKey(seed, epoch, users)")
    if len(key.users) != len(indptr) - 1:
        raise ValueError(
            f"key.users must have one user for each of {len(indptr) - 1} sequences, "
            f"got {len(key.users)}"
        )
    return PackedDropout(indptr, key.users, p, signed_seed(key.seed), key.epoch, stream)


def of_one_dtype(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Under autocast, tensors of mixed dtypes in the widest, as torch's operations take them."""
    if autocast_dtype(tensors[0].device.type) is None:
        return tensors
    widest = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return tuple(tensor.to(widest) for tensor in tensors)


def check_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Raises ValueError where the arguments of attention are not all [T, heads, e] of one dtype."""
    for name, tensor in (("k", k), ("v", v)):
        if q.ndim != 3 or tensor.shape != q.shape or tensor.dtype != q.dtype:
            raise ValueError(
                f"q and {name} must have the same dtype and shape [T, heads, e], got {q.dtype} of "
                f"shape {tuple(q.shape)} and {tensor.dtype} of shape {tuple(tensor.shape)}"
            )


def adjacent_rows(x: torch.Tensor) -> npt.NDArray[Any]:
    """``x`` as an array whose last dimension is adjacent in memory."""
    return (x if x.stride(-1) == 1 else x.contiguous()).detach().numpy()


def cpp_problem(tensor: torch.Tensor) -> str | None:
    """Why the C++ implementation cannot take ``tensor``; None where it can."""
    device = tensor.device.type
    if device != "cpu":
        return f"it runs on the CPU, got a tensor on {device}"
    narrow = torch.is_autocast_enabled(device) and tensor.dtype != torch.float64
    if tensor.dtype != torch.float32 and not narrow:
        return f"it computes in float32, got {tensor.dtype}"
    return extension_problem


def offsets(indptr: torch.Tensor, n_tokens: int) -> npt.NDArray[np.int64]:
    """``indptr`` as an array, checked so that no kernel can read outside its tokens.

    Raises:
        ValueError: it does not rise from 0 to ``n_tokens``.
    """
    array = indptr.detach().cpu().contiguous().numpy()
    if array[0] != 0 or array[-1] != n_tokens or (array[1:] < array[:-1]).any():
        raise ValueError(
            f"indptr must rise from 0 to {n_tokens}, the number of tokens, "
            f"got {array[0]} .. {array[-1]}"
        )
    return array


def cpp_arguments(
    n_tokens: int, words: PackedDropout
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int, float, int, int, int]:
    """indptr, users, keep_from, keep_scale, seed, epoch and stream: the extension's ``words``."""
    return (
        offsets(words.indptr, n_tokens),
        words.users.contiguous().numpy(),
        words.keep_from,
        words.keep_scale,
        words.seed % 2**64,
        words.epoch,
        words.stream,
    )
