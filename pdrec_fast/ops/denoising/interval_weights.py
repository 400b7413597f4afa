"""Weights of a user's records by the time at which they happened: the input x'_0 of TI-DiffRec."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.denoising import interval_weights as reference

WEIGHTINGS = ("interval", "rank", "decay", "half-life", "none")

# Loading Numba takes about as long as the reference takes for this many records.
_NUMBA_PAYS_FROM = 10_000_000


def interval_weights(
    indptr: npt.NDArray[np.int64],
    timestamps: npt.NDArray[np.float64] | None,
    w_min: float,
    w_max: float,
    weighting: str = "interval",
    impl: str = "auto",
    *,
    decay: float = 1.0,
    half_life: float = math.inf,
) -> npt.NDArray[np.float32]:
    """``w_min + (t - t[0]) / (t[-1] - t[0]) * (w_max - w_min)`` for the times t of every user.

    The weights of a user's records, later ones more, by ``weighting``:

    - ``"interval"`` (TI-DiffRec; PDRec, section "Time Interval Reweighting"):
      ``w_j = w_min + (t_j - t_1) / (t_p - t_1) (w_max - w_min)``. Rows with ``t_p = t_1`` get
      ``w_max`` throughout. Without timestamps the weights are those of ``"rank"``.
    - ``"rank"`` (T-DiffRec): ``numpy.linspace(w_min, w_max, n)`` in a row of n records, so that
      a single record gets ``w_min``.
    - ``"decay"``: ``w_min + decay ** k (w_max - w_min)``, k records before the row's last.
    - ``"half-life"``: ``w_min + 2 ** ((t_j - t_p) / half_life) (w_max - w_min)``, those of
      ``"decay"`` without timestamps.
    - ``"none"`` (DiffRec): ones.

    Args:
        indptr: int64 [n_users + 1]; user u's records are ``indptr[u]:indptr[u + 1]``, in
            chronological order. Rows may be empty.
        timestamps: float64 [n_records], or None where the data have none; read by
            ``"interval"`` and ``"half-life"``.
        w_min: weight of a user's first record; finite.
        w_max: weight of a user's last record; finite and at least ``w_min``.
        weighting: one of ``WEIGHTINGS``.
        impl: ``"auto"``, ``"numba"`` or ``"reference"``. All give the same bits: the arithmetic is
            in float64, in the same order, and is rounded to float32 once. ``"auto"`` takes Numba
            only for data so large that loading it pays, and never for ``"half-life"``.
        decay: of ``"decay"``, above 0 and at most 1.
        half_life: of ``"half-life"``, above 0, in the unit of the timestamps.

    Returns:
        float32 [n_records].

    Raises:
        ValueError: an argument is out of its range, the lengths do not match, or a timestamp is
            not finite or lies outside those of its row's first and last records.
        BackendError: the named implementation cannot run here.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"unknown weighting={weighting!r}; choose one of {list(WEIGHTINGS)}")
    if not (math.isfinite(w_min) and math.isfinite(w_max) and w_min <= w_max):
        raise ValueError(
            f"w_min={w_min!r} and w_max={w_max!r} must be finite and w_min must not exceed w_max"
        )
    if not 0 < decay <= 1:
        raise ValueError(f"decay must lie in (0, 1], got {decay!r}")
    if not half_life > 0:
        raise ValueError(f"half_life must be positive, got {half_life!r}")
    indptr = _checked_indptr(indptr)
    if weighting == "half-life" and timestamps is None:
        weighting = "decay"
    chosen = choose("interval_weights", impl, _offered(int(indptr[-1]), weighting))
    if weighting == "none":
        return np.ones(indptr[-1], dtype=np.float32)
    if weighting == "decay":
        return _run_decay(chosen, indptr, float(w_min), float(w_max), float(decay))
    if weighting == "rank":
        timestamps = None
    if timestamps is not None:
        timestamps = _checked_timestamps(timestamps, indptr)
    if weighting == "half-life":
        assert timestamps is not None
        return reference.half_life_weights(indptr, timestamps, w_min, w_max, half_life)
    return _run(chosen, indptr, timestamps, float(w_min), float(w_max))


def _offered(n_records: int, weighting: str) -> dict[str, str | None]:
    missing = None if importlib.util.find_spec("numba") else "numba is not installed"
    if weighting == "half-life":
        missing = "it has no powers that round as NumPy's"
    if n_records < _NUMBA_PAYS_FROM or weighting == "half-life":
        return {"reference": None, "numba": missing}
    return {"numba": missing, "reference": None}


def _run(
    chosen: str,
    indptr: npt.NDArray[np.int64],
    timestamps: npt.NDArray[np.float64] | None,
    w_min: float,
    w_max: float,
) -> npt.NDArray[np.float32]:
    if chosen == "numba":
        from pdrec_fast.kernels.numba.denoising import interval_weights as kernels

        n_threads = torch.get_num_threads()
        if timestamps is None:
            return kernels.rank_weights(indptr, w_min, w_max, n_threads)
        return kernels.interval_weights(indptr, timestamps, w_min, w_max, n_threads)
    if timestamps is None:
        return reference.rank_weights(indptr, w_min, w_max)
    return reference.interval_weights(indptr, timestamps, w_min, w_max)


def _run_decay(
    chosen: str, indptr: npt.NDArray[np.int64], w_min: float, w_max: float, decay: float
) -> npt.NDArray[np.float32]:
    if chosen == "numba":
        from pdrec_fast.kernels.numba.denoising import interval_weights as kernels

        return kernels.decay_weights(indptr, w_min, w_max, decay, torch.get_num_threads())
    return reference.decay_weights(indptr, w_min, w_max, decay)


def _checked_indptr(indptr: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    indptr = np.asarray(indptr)
    if indptr.ndim != 1 or indptr.size == 0 or indptr.dtype.kind not in "iu":
        raise ValueError(
            "indptr must be a 1-d integer array of n_users + 1 offsets, "
            f"not {indptr.dtype} of shape {indptr.shape}"
        )
    indptr = np.ascontiguousarray(indptr, dtype=np.int64)
    if indptr[0] != 0:
        raise ValueError(f"indptr must start at 0, not at {indptr[0]}")
    falls = np.flatnonzero(np.diff(indptr) < 0)
    if falls.size:
        user = falls[0]
        raise ValueError(
            f"indptr must not decrease: indptr[{user}]={indptr[user]} is followed by "
            f"{indptr[user + 1]}"
        )
    return indptr


def _checked_timestamps(
    timestamps: npt.NDArray[np.float64], indptr: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    timestamps = np.ascontiguousarray(timestamps, dtype=np.float64)
    if timestamps.shape != (indptr[-1],):
        raise ValueError(
            f"timestamps has shape {timestamps.shape} but indptr ends at {indptr[-1]} records"
        )
    if not np.isfinite(timestamps).all():
        record = int(np.flatnonzero(~np.isfinite(timestamps))[0])
        raise ValueError(f"timestamps[{record}]={timestamps[record]} must be finite")
    users = np.flatnonzero(np.diff(indptr))
    if users.size == 0:
        return timestamps
    starts, lasts = indptr[users], indptr[users + 1] - 1
    early = np.minimum.reduceat(timestamps, starts) < timestamps[starts]
    late = np.maximum.reduceat(timestamps, starts) > timestamps[lasts]
    if (early | late).any():
        row = np.flatnonzero(early | late)[0]
        raise ValueError(
            f"timestamps of row {users[row]} (records {starts[row]} to {lasts[row]}) leave the "
            "range from its first to its last record; sort each user's records by time"
        )
    return timestamps
