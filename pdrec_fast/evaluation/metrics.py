"""Ranking metrics of one target per case, as exact expectations over the order of ties.

Where e other candidates tie with the target and g score higher, its 0-based rank is uniform on
g, ..., g + e. Every metric is the mean over those ranks, so a model that scores all candidates
alike gets the chance level and no order of the candidates favours the target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.errors import NonFiniteScoresError
from pdrec_fast.ops.selection.count_above import count_above
from pdrec_fast.ops.selection.count_above_sums import count_above_sums

CUTOFFS = (1, 5, 10, 20, 50)


@dataclass(frozen=True)
class Ranks:
    """Where each case's target stands among its other candidates.

    Attributes:
        greater: int64 [n], other candidates that score strictly higher than the target.
        equal: int64 [n], other candidates that score exactly the same.
        candidates: int64 [n], all other candidates.

    Raises:
        ValueError: the lengths differ, or a case has fewer candidates than ``greater + equal``.
    """

    greater: npt.NDArray[np.int64]
    equal: npt.NDArray[np.int64]
    candidates: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        shapes = {}
        for name in ("greater", "equal", "candidates"):
            counts = np.asarray(getattr(self, name), dtype=np.int64)
            object.__setattr__(self, name, counts)
            shapes[name] = counts.shape
        if len(set(shapes.values())) > 1 or self.greater.ndim != 1:
            raise ValueError(f"Ranks needs three 1-d arrays of one length, not {shapes}")
        bad = (self.greater < 0) | (self.equal < 0)
        bad |= self.greater + self.equal > self.candidates
        if bad.any():
            case = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"case {case}: greater={self.greater[case]} and equal={self.equal[case]} do not "
                f"fit {self.candidates[case]} candidates"
            )

    def __len__(self) -> int:
        return len(self.greater)

    @classmethod
    def nothing(cls) -> Ranks:
        """Of no case."""
        return cls(*np.zeros((3, 0), dtype=np.int64))

    @classmethod
    def concatenate(cls, parts: Sequence[Ranks]) -> Ranks:
        """The cases of all ``parts``, in order."""
        return cls(
            np.concatenate([part.greater for part in parts]),
            np.concatenate([part.equal for part in parts]),
            np.concatenate([part.candidates for part in parts]),
        )


def rank_counts(
    target_scores: torch.Tensor,
    scores: torch.Tensor,
    excluded: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Ranks:
    """Count the candidates above and level with each target.

    Args:
        target_scores: float [n].
        scores: float [n, C], scores of the candidates, on the device of ``target_scores``.
        excluded: (rows, columns), int64 each, of the entries that are no candidates (the target's
            own column, if it has one, and filtered items), no entry twice; None counts every one.

    Raises:
        ValueError: the shapes do not fit.
        NonFiniteScoresError: a score is NaN.
    """
    if target_scores.ndim != 1 or scores.shape[:-1] != target_scores.shape or scores.shape[-1] == 0:
        raise ValueError(
            "target_scores must be [n] and scores [n, C] with C > 0, "
            f"not {list(target_scores.shape)} and {list(scores.shape)}"
        )
    counts = count_above(scores, target_scores)
    if (counts.nans > 0).any() | target_scores.isnan().any():
        raise _nan_error(target_scores, scores)
    if excluded is None:
        excluded = (torch.zeros(0, dtype=torch.int64, device=scores.device),) * 2
    return _ranks(
        counts.greater,
        counts.equal,
        excluded[0],
        scores[excluded],
        target_scores,
        scores.shape[1],
    )


def rank_counts_of_sums(
    targets: torch.Tensor,
    logits: torch.Tensor,
    scores: torch.Tensor,
    weights: torch.Tensor,
    excluded: tuple[torch.Tensor, torch.Tensor],
) -> list[Ranks]:
    """``rank_counts`` by ``logits + w * scores`` for every weight w, in one pass over both.

    Args:
        targets: float [2, n], logits and scores of the targets.
        logits, scores: float [n, C], of the candidates; weights: float [W]; see
            ``count_above_sums``.
        excluded: see ``rank_counts``.

    Raises:
        NonFiniteScoresError: a sum is NaN.
    """
    counts = count_above_sums(logits, scores, weights, targets)
    if (counts.nans > 0).any() | targets.isnan().any():
        raise NonFiniteScoresError(
            "logits and scores have sums that are NaN: one of the models has diverged"
        )
    their_logits, their_scores = logits[excluded], scores[excluded]
    found = []
    for k, weight in enumerate(weights.tolist()):
        found.append(
            _ranks(
                counts.greater[:, k],
                counts.equal[:, k],
                excluded[0],
                their_logits + weight * their_scores,
                targets[0] + weight * targets[1],
                logits.shape[1],
            )
        )
    return found


def _ranks(
    greater: torch.Tensor,
    equal: torch.Tensor,
    rows: torch.Tensor,
    excluded: torch.Tensor,
    targets: torch.Tensor,
    n_candidates: int,
) -> Ranks:
    """Counts without those of the ``excluded`` scores of some rows: a few entries of each, which
    counted apart cost no mask of the size of the scores."""
    n_cases, wanted = len(targets), targets[rows]
    return Ranks(
        greater.cpu().numpy() - _counts_by_row(rows[excluded > wanted], n_cases),
        equal.cpu().numpy() - _counts_by_row(rows[excluded == wanted], n_cases),
        n_candidates - _counts_by_row(rows, n_cases),
    )


def per_case(ranks: Ranks, name: str) -> npt.NDArray[np.float64]:
    """One metric of every case, e.g. for a paired test between two models.

    Args:
        ranks: n cases.
        name: ``"hr@k"``, ``"ndcg@k"``, ``"mrr"`` or ``"auc"``, with k a positive integer.

    Returns:
        float64 [n]. With one relevant item per case, HR@k is the recall at k and NDCG@k is
        ``1 / log2(rank + 2)`` within the cutoff. AUC counts a tie as one half; without any other
        candidate it is one half.

    Raises:
        ValueError: no such metric.
    """
    kind, _, cutoff = name.partition("@")
    if kind in ("hr", "ndcg") and cutoff.isdecimal() and int(cutoff) > 0:
        gains = _hit_gains if kind == "hr" else _discounts
        return _expected_gain(ranks, gains(int(cutoff)))
    if name == "mrr":
        return _expected_gain(ranks, 1.0 / np.arange(1, _max_rank(ranks) + 1))
    if name == "auc":
        below = ranks.candidates - ranks.greater - 0.5 * ranks.equal
        return np.where(ranks.candidates > 0, below / np.maximum(ranks.candidates, 1), 0.5)
    raise ValueError(f"unknown metric {name!r}; choose 'hr@k', 'ndcg@k', 'mrr' or 'auc'")


def metric_names(ks: Iterable[int] = CUTOFFS) -> list[str]:
    """Names of the metrics that ``summarize`` reports for the cutoffs ``ks``."""
    ks = list(ks)
    return [f"hr@{k}" for k in ks] + [f"ndcg@{k}" for k in ks] + ["mrr", "auc"]


def summarize(ranks: Ranks, ks: Iterable[int] = CUTOFFS) -> dict[str, float]:
    """Means over the cases of every metric in ``metric_names(ks)``.

    Raises:
        ValueError: there are no cases, or a cutoff is not a positive integer.
    """
    if len(ranks) == 0:
        raise ValueError("no cases to summarize")
    return {name: math.fsum(per_case(ranks, name)) / len(ranks) for name in metric_names(ks)}


def _nan_error(target_scores: torch.Tensor, scores: torch.Tensor) -> NonFiniteScoresError:
    """Names the first NaN, of the targets where there is one."""
    of_targets = bool(target_scores.isnan().any())
    name, values = ("target_scores", target_scores[:, None]) if of_targets else ("scores", scores)
    case, column = values.isnan().nonzero()[0].tolist()
    return NonFiniteScoresError(
        f"{name} of case {case} is NaN (column {column}); a model that gives NaN scores has "
        "diverged and cannot be ranked",
        case,
    )


def _counts_by_row(rows: torch.Tensor, n_rows: int) -> npt.NDArray[np.int64]:
    return torch.bincount(rows, minlength=n_rows).cpu().numpy()


def _max_rank(ranks: Ranks) -> int:
    return int((ranks.greater + ranks.equal).max(initial=0)) + 1


def _hit_gains(k: int) -> npt.NDArray[np.float64]:
    return np.ones(k)


def _discounts(k: int) -> npt.NDArray[np.float64]:
    return 1.0 / np.log2(np.arange(2, k + 2))


def _expected_gain(ranks: Ranks, gains: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean of ``gains[rank]`` over ranks greater..greater+equal; beyond the table it is 0."""
    total = np.concatenate(([0.0], np.cumsum(gains)))
    first = np.minimum(ranks.greater, len(gains))
    stop = np.minimum(ranks.greater + ranks.equal + 1, len(gains))
    return (total[stop] - total[first]) / (ranks.equal + 1)
