"""Time-interval weights in one pass over the records, users split over threads.

    w_j = w_min + (t_j - t_1) / (t_p - t_1) (w_max - w_min)    (PDRec, "Time Interval Reweighting")

The threads are Python's own and the kernels release the GIL. Numba's ``parallel=True`` is not used:
its OpenMP layer ends any forked child (a DataLoader worker) that calls a kernel after its parent
did, and its workqueue layer aborts when two threads call one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """``numba.njit``, kept on disk where some cache directory can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no writable place for the cache: compile in every process
        return numba.njit(nogil=True)(function)


@_compiled
def _interval_rows(
    first_user: int,
    last_user: int,
    indptr: npt.NDArray[np.int64],
    timestamps: npt.NDArray[np.float64],
    w_min: float,
    w_max: float,
    weights: npt.NDArray[np.float32],
) -> None:
    for user in range(first_user, last_user):
        start, stop = indptr[user], indptr[user + 1]
        if start == stop:
            continue
        first = timestamps[start]
        span = timestamps[stop - 1] - first
        for j in range(start, stop):
            if span == 0:
                weights[j] = w_max
            else:
                weight = w_min + (timestamps[j] - first) / span * (w_max - w_min)
                weights[j] = min(weight, w_max)


@_compiled
def _rank_rows(
    first_user: int,
    last_user: int,
    indptr: npt.NDArray[np.int64],
    w_min: float,
    w_max: float,
    weights: npt.NDArray[np.float32],
) -> None:
    for user in range(first_user, last_user):
        start, stop = indptr[user], indptr[user + 1]
        step = (w_max - w_min) / max(stop - start - 1, 1)
        for j in range(start, stop):
            weights[j] = w_min + (j - start) * step
        if stop - start > 1:
            weights[stop - 1] = w_max


@_compiled
def _decay_rows(
    first_user: int,
    last_user: int,
    indptr: npt.NDArray[np.int64],
    w_min: float,
    w_max: float,
    decay: float,
    weights: npt.NDArray[np.float32],
) -> None:
    for user in range(first_user, last_user):
        power = 1.0
        for j in range(indptr[user + 1] - 1, indptr[user] - 1, -1):
            weights[j] = w_min + power * (w_max - w_min)
            power *= decay


def interval_weights(
    indptr: npt.NDArray[np.int64],
    timestamps: npt.NDArray[np.float64],
    w_min: float,
    w_max: float,
    n_threads: int,
) -> npt.NDArray[np.float32]:
    """Same numbers as the reference of ``interval_weights``, bit for bit."""
    return _over_users(_interval_rows, n_threads, indptr, timestamps, w_min, w_max)


def rank_weights(
    indptr: npt.NDArray[np.int64], w_min: float, w_max: float, n_threads: int
) -> npt.NDArray[np.float32]:
    """Same numbers as the reference of ``rank_weights``, bit for bit."""
    return _over_users(_rank_rows, n_threads, indptr, w_min, w_max)


def decay_weights(
    indptr: npt.NDArray[np.int64], w_min: float, w_max: float, decay: float, n_threads: int
) -> npt.NDArray[np.float32]:
    """Same numbers as the reference of ``interval_weights``, bit for bit."""
    return _over_users(_decay_rows, n_threads, indptr, w_min, w_max, decay)


def _over_users(
    rows: Callable[..., None], n_threads: int, indptr: npt.NDArray[np.int64], *arguments: Any
) -> npt.NDArray[np.float32]:
    """Run ``rows`` on ranges of users that hold about the same number of records each."""
    n_records = int(indptr[-1])
    weights = np.empty(n_records, dtype=np.float32)
    bounds = np.searchsorted(indptr, np.linspace(0, n_records, n_threads + 1))
    with ThreadPoolExecutor(n_threads) as pool:
        parts = [
            pool.submit(rows, int(first), int(last), indptr, *arguments, weights)
            for first, last in pairwise(bounds)
        ]
        for part in parts:
            part.result()
    return weights
