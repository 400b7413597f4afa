"""HBR, Historical Behavior Reweighting: how much each observed behaviour counts (paper, eq. 2)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from pdrec_fast.ragged import row_indices


class HBRSettings(Protocol):
    """ω_r in [0, 1], c_w > 0 and ω_f > 0 of HBR; ``PDRecConfig`` has them."""

    @property
    def hbr_rank_weight(self) -> float: ...
    @property
    def hbr_clip(self) -> float: ...
    @property
    def hbr_rescale(self) -> float: ...


def ranks_within(indptr: np.ndarray, scores: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Rank of every score within its row: 1 = highest, ties to the lower item, then the earlier.

    Args:
        indptr: int64 [U + 1]; scores: float [n]; items: int [n].

    Returns:
        int32 [n].
    """
    rows = row_indices(indptr)
    order = np.lexsort((items, -scores, rows))
    ranks = np.empty(len(scores), dtype=np.int32)
    ranks[order] = np.arange(len(scores)) - indptr[rows] + 1
    return ranks


def hbr_weights(
    indptr: np.ndarray,
    scores: np.ndarray,
    items: np.ndarray,
    *,
    rank_weight: float,
    clip: float,
    rescale: float,
) -> np.ndarray:
    """Weights of every user's training positives.

    ``ŵ = (1 - ω_r) ω_s norm(o) + ω_r (1 + max r - r) / max r`` (eq. 2), where o are the preferences
    for the user's positives, r their ranks among them, norm the scaling of o to 0..1 within the
    user and ω_s makes the normalised preferences average 1; then ``ω_f * clip(ŵ, 0, c_w)``. Where
    all of a user's preferences are equal, norm(o) is taken as 1.

    Args:
        indptr: int64 [U + 1], rows of positives, empty rows allowed.
        scores: float [n], preferences o; items: int [n], for ties of the rank.
        rank_weight: ω_r in [0, 1]; clip: c_w > 0; rescale: ω_f > 0.

    Returns:
        float32 [n].
    """
    if not 0 <= rank_weight <= 1:
        raise ValueError(f"rank_weight must lie in [0, 1], got {rank_weight}")
    if not (clip > 0 and rescale > 0):
        raise ValueError(f"clip and rescale must be positive, got clip={clip}, rescale={rescale}")
    if len(scores) == 0:
        return np.zeros(0, dtype=np.float32)
    lengths = np.diff(indptr)
    starts = indptr[:-1][lengths > 0]
    lengths = lengths[lengths > 0]
    scores = scores.astype(np.float64)
    lowest = np.repeat(np.minimum.reduceat(scores, starts), lengths)
    span = np.repeat(np.maximum.reduceat(scores, starts), lengths) - lowest
    normalised = np.divide(scores - lowest, span, out=np.ones_like(scores), where=span > 0)
    mean = np.repeat(np.add.reduceat(normalised, starts) / lengths, lengths)
    last_rank = np.repeat(lengths, lengths)
    rank_term = (1 + last_rank - ranks_within(indptr, scores, items)) / last_rank
    weights = (1 - rank_weight) * normalised / mean + rank_weight * rank_term
    return (rescale * np.clip(weights, 0, clip)).astype(np.float32)
