"""NumPy reference of the time-interval weights, for all users at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def interval_weights(
    indptr: npt.NDArray[np.int64],
    timestamps: npt.NDArray[np.float64],
    w_min: float,
    w_max: float,
) -> npt.NDArray[np.float32]:
    """``w_min + (t_j - t_1) / (t_p - t_1) (w_max - w_min)``; ``w_max`` in rows with t_p = t_1."""
    counts = np.diff(indptr)
    starts, stops = indptr[:-1][counts > 0], indptr[1:][counts > 0]
    counts = counts[counts > 0]
    first = np.repeat(timestamps[starts], counts)
    span = np.repeat(timestamps[stops - 1] - timestamps[starts], counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = w_min + (timestamps - first) / span * (w_max - w_min)
    # The last weight may round to just above w_max.
    weights = np.where(span == 0, w_max, np.minimum(weights, w_max))
    return weights.astype(np.float32)


def rank_weights(
    indptr: npt.NDArray[np.int64], w_min: float, w_max: float
) -> npt.NDArray[np.float32]:
    """``numpy.linspace(w_min, w_max, n)`` in every row of n records."""
    counts = np.diff(indptr)
    rank = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts)
    step = (w_max - w_min) / np.maximum(counts - 1, 1)
    weights = w_min + rank * np.repeat(step, counts)
    weights[indptr[1:][counts > 1] - 1] = w_max
    return weights.astype(np.float32)


def decay_weights(
    indptr: npt.NDArray[np.int64], w_min: float, w_max: float, decay: float
) -> npt.NDArray[np.float32]:
    """``w_min + decay ** k (w_max - w_min)``, k records before the last of a row."""
    back = np.repeat(indptr[1:], np.diff(indptr)) - 1 - np.arange(indptr[-1])
    powers = _powers(decay, int(back.max(initial=0)) + 1)
    return (w_min + powers[back] * (w_max - w_min)).astype(np.float32)


def _powers(decay: float, n: int) -> npt.NDArray[np.float64]:
    """1, decay, decay^2, ...: products one after the other, which any implementation can repeat
    to the bit."""
    return np.cumprod(np.concatenate([[1.0], np.full(n - 1, decay)]))


def half_life_weights(
    indptr: npt.NDArray[np.int64],
    timestamps: npt.NDArray[np.float64],
    w_min: float,
    w_max: float,
    half_life: float,
) -> npt.NDArray[np.float32]:
    """``w_min + 2 ** ((t_j - t_p) / half_life) (w_max - w_min)``."""
    counts = np.diff(indptr)
    last = np.repeat(timestamps[indptr[1:][counts > 0] - 1], counts[counts > 0])
    return (w_min + np.exp2((timestamps - last) / half_life) * (w_max - w_min)).astype(np.float32)
