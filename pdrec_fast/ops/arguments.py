"""Checks of arguments that several operations share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.ragged import Ragged

_WORD = 2**32
# Asked once, as torch.compile of torch 2.6 cannot trace the question.
_AUTOCAST_DEVICES = frozenset(
    filter(torch.amp.is_autocast_available, ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla"))
)


def autocast_dtype(device: str) -> torch.dtype | None:
    """What autocast casts to on a kind of device, ``"cpu"`` or another; None where it is off."""
    if device not in _AUTOCAST_DEVICES or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def per_row(name: str, values: Any, dtype: npt.DTypeLike, n_rows: int) -> npt.NDArray[Any]:
    """``values`` (array, sequence or CPU tensor) as a contiguous array of shape [n_rows].

    Raises:
        ValueError: another shape, or numbers of a kind that ``dtype`` does not hold.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.shape != (n_rows,):
        raise ValueError(f"{name} must have shape [{n_rows}], one per row, got {array.shape}")
    if array.size and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ValueError(f"{name} must hold {np.dtype(dtype)}, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=dtype)


def float_array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    """A float32 CPU tensor as a contiguous array.

    Raises:
        ValueError: another dtype or device.
    """
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise ValueError(f"expected float32 on the CPU, got {tensor.dtype} on {tensor.device}")
    return tensor.detach().contiguous().numpy()


def csr(
    indptr: npt.NDArray[np.int64],
    items: npt.NDArray[np.int32],
    n_rows: int,
    n_items: int,
    names: tuple[str, str] = ("indptr", "items"),
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Rows of item indices as contiguous (int64, int32) arrays, checked so that no kernel can
    read outside them.

    Raises:
        ValueError: shapes that do not fit, decreasing ``indptr`` or items out of range.
    """
    indptr = per_row(names[0], indptr, np.int64, n_rows + 1)
    items = np.asarray(items.cpu() if isinstance(items, torch.Tensor) else items)
    items = per_row(names[1], items, np.int32, len(items) if items.ndim else 1)
    if indptr[0] != 0 or indptr[-1] != len(items) or (np.diff(indptr) < 0).any():
        raise ValueError(
            f"{names[0]} must rise from 0 to {len(items)} (the length of {names[1]}), "
            f"got {indptr[0]} .. {indptr[-1]}"
        )
    outside = (items < 0) | (items >= n_items)
    if outside.any():
        at = int(outside.argmax())
        raise ValueError(f"{names[1]} must lie in 0 .. {n_items - 1}, got {items[at]} at {at}")
    return indptr, items


def observed_rows(
    observed: tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]], n_rows: int, n_items: int
) -> Ragged:
    """``csr`` of the rows' observed items, which must ascend strictly within a row."""
    indptr, items = csr(
        *observed, n_rows, n_items, names=("observed[0] (indptr)", "observed[1] (items)")
    )
    ascends = np.diff(items) > 0
    starts = indptr[1:-1]
    ascends[starts[(starts > 0) & (starts < len(items))] - 1] = True
    if not ascends.all():
        at = int(ascends.argmin()) + 1
        row = int(np.searchsorted(indptr, at, side="right")) - 1
        raise ValueError(
            "observed[1] (items) must be sorted and unique within a row; "
            f"row {row} has {items[at - 1]} before {items[at]}"
        )
    return Ragged(items, indptr)


def score_matrix(scores: torch.Tensor) -> torch.Tensor:
    """``scores`` as a contiguous float32 CPU tensor [B, N].

    Raises:
        ValueError: another device, dtype or number of dimensions, or no items.
    """
    if scores.device.type != "cpu" or scores.dtype != torch.float32 or scores.ndim != 2:
        raise ValueError(
            "scores must be a float32 CPU tensor of shape [B, N], got "
            f"{scores.dtype} on {scores.device} of shape {tuple(scores.shape)}"
        )
    if not 1 <= scores.shape[1] < 2**31:
        raise ValueError(f"scores must have 1 .. 2**31 - 1 columns, got {scores.shape[1]}")
    return scores.detach().contiguous()


def check_tensors(
    names: Sequence[str],
    tensors: Sequence[torch.Tensor],
    dtypes: Sequence[torch.dtype],
    lengths: Sequence[int],
) -> None:
    """What can be checked of one-dimensional tensors without waiting for their GPU.

    Raises:
        ValueError: one has another dtype or shape.
    """
    for name, tensor, dtype, length in zip(names, tensors, dtypes, lengths, strict=True):
        if tensor.shape != (length,) or tensor.dtype != dtype:
            raise ValueError(
                f"{name} must be {dtype} of shape [{length}], got {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}"
            )


def signed_seed(seed: int) -> int:
    """A seed of 64 bits in two's complement, as custom ops take integers."""
    return seed if seed < 2**63 else seed - 2**64


def check_dropout(p: float) -> None:
    """Raises ValueError where ``p`` is no probability of dropping, or drops everything."""
    if not 0 <= p <= 1 - 2**-32:
        raise ValueError(f"dropout must lie in [0, 1), got {p}")


def check_random_key(seed: int, epoch: int) -> None:
    """Raises ValueError where ``seed`` is outside 64 bits or ``epoch`` outside 32."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must lie in 0 .. 2**64 - 1, got {seed}")
    if not 0 <= epoch < _WORD:
        raise ValueError(f"epoch must lie in 0 .. 2**32 - 1, got {epoch}")


def random_keys(seed: int, epoch: int, users: Any, n_rows: int) -> npt.NDArray[np.int64]:
    """``users`` as int64 [n_rows], checked with the other parts of the random generator's key.

    Raises:
        ValueError: ``seed`` outside 64 bits, ``epoch`` or a user outside 32.
    """
    check_random_key(seed, epoch)
    users = per_row("users", users, np.int64, n_rows)
    outside = (users < 0) | (users >= _WORD)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(f"users must lie in 0 .. 2**32 - 1, got {users[row]} in row {row}")
    return users
