"""Stable orders of integer and time keys, by radix sort."""

from __future__ import annotations

import numpy as np

from pdrec_fast.errors import DataError

_BLOCK = 1 << 22  # records looked at together: the array may be a map of a file beyond memory
_DIGIT_BITS = 16  # NumPy's stable sort is a radix sort for keys of 16 bits, and only for these


def stable_order(keys: np.ndarray) -> np.ndarray:
    """``np.argsort(keys, kind="stable")`` of integers: the smaller their range, the faster.

    Args:
        keys: int64 [n].

    Returns:
        int64 [n].
    """
    if len(keys) == 0:
        return np.empty(0, np.int64)
    offsets = (keys - keys.min()).view(np.uint64)  # right even where the difference wraps around
    order = np.argsort(offsets.astype(np.uint16), kind="stable")
    for shift in range(_DIGIT_BITS, int(offsets.max()).bit_length(), _DIGIT_BITS):
        digits = (offsets >> np.uint64(shift)).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order


def chronological_order(
    users: np.ndarray, times: np.ndarray | None, parts: np.ndarray | None = None
) -> np.ndarray:
    """Order by user, then time, then position: ``np.lexsort((parts, times, users))``, but faster.

    Args:
        users: int64 [n].
        times: float64 [n], finite and at most 2^53 in size, or int64 [n], or None: the positions
            are the order.
        parts: int64 [n], what decides between equal times; or None.

    Returns:
        int64 [n].
    """
    if times is None:
        return stable_order(users)
    if _are_in_order(users, times, parts):
        return np.arange(len(users))
    keys = times if times.dtype == np.int64 else _integers_in_order_of(times)
    if parts is None:
        order = stable_order(keys)
    else:
        order = stable_order(parts)
        order = order[stable_order(keys[order])]
    return order[stable_order(users[order])]


def check_times(times: np.ndarray, indptr: np.ndarray) -> None:
    """Raises DataError where times are not finite, or decrease within a user.

    Args:
        times: float64 [n].
        indptr: int64 [n_users + 1], each user's records.
    """
    for start in range(0, len(times), _BLOCK):
        block = times[start : start + _BLOCK]
        if not np.isfinite(block).all():
            raise DataError("timestamps must be finite")
        before = times[start - 1] if start else -np.inf
        backwards = np.diff(block, prepend=before) < 0
        begins = indptr[
            np.searchsorted(indptr, start) : np.searchsorted(indptr, start + len(block))
        ]
        backwards[begins - start] = False  # a user's first record
        if backwards.any():
            record = start + int(backwards.argmax())
            raise DataError(f"timestamps must not decrease within a user; record {record} does")


def _are_in_order(users: np.ndarray, times: np.ndarray, parts: np.ndarray | None) -> bool:
    later = times[1:] >= times[:-1]
    if parts is not None:
        later &= (times[1:] != times[:-1]) | (parts[1:] >= parts[:-1])
    steps = np.diff(users)
    return bool(((steps > 0) | ((steps == 0) & later)).all())


def _integers_in_order_of(times: np.ndarray) -> np.ndarray:
    """int64 keys with the order and the ties of the times."""
    whole = times.astype(np.int64)
    if (whole == times).all():
        return whole  # unix seconds: half the digits of their bit patterns
    bits = (times + 0.0).view(np.int64)  # + 0.0 makes -0.0 equal 0.0
    return np.where(bits < 0, bits ^ np.iinfo(np.int64).max, bits)
