"""Recall and NDCG of several held-out items a user, as in DiffRec's paper."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pdrec_fast.data import Split
from pdrec_fast.evaluation.metrics import Ranks, per_case
from pdrec_fast.evaluation.protocols import SPLIT_NAMES, Evaluator
from pdrec_fast.evaluation.scoring import Scorer

SET_CUTOFFS = (10, 20, 50, 100)


def evaluate_sets(
    scorer: Scorer,
    split: Split,
    *,
    on: Iterable[str] = SPLIT_NAMES,
    ks: Iterable[int] = SET_CUTOFFS,
    block_size: int | None = None,
) -> dict[str, dict[str, float]]:
    """Recall@k and NDCG@k of users' held-out sets in the whole corpus without their histories:
    split name -> metric name -> value.

    Args:
        split: with several cases a user, such as ``given_split`` makes.
        on: ``"valid"``, ``"test"``.
        ks: cut-offs.
        block_size: see ``Evaluator``.

    Raises:
        ValueError: see ``Evaluator.ranks`` and ``summarize_sets``.
    """
    ks, evaluator = list(ks), Evaluator(split, block_size=block_size)
    found = {}
    for name in on:
        ranks = evaluator.ranks(scorer, "full", name)
        found[name] = summarize_sets(ranks, getattr(split, name).users, ks)
    return found


def summarize_sets(
    ranks: Ranks, users: npt.NDArray[np.int64], ks: Iterable[int] = SET_CUTOFFS
) -> dict[str, float]:
    """Means over users of what their held-out sets reach.

    With n held-out items of a user, of which some are among the k best: Recall@k is their share,
    and NDCG@k the sum of ``1 / log2(rank + 2)`` over them, divided by its largest value, that of
    min(n, k) items in the first places. (DiffRec's code divides the sums by all users, here it is
    by those that have a held-out item.) Ties count by their expectation, see ``Ranks``.

    Args:
        ranks: of each held-out item among all candidates, n cases.
        users: int64 [n], whose case each is.

    Raises:
        ValueError: there are no cases, another number of users, or a cut-off below 1.
    """
    if len(ranks) == 0:
        raise ValueError("no cases to summarize")
    if np.shape(users) != (len(ranks),):
        raise ValueError(f"users must be [{len(ranks)}], one a case, not {list(np.shape(users))}")
    ks = list(ks)
    _, of, sizes = np.unique(users, return_inverse=True, return_counts=True)

    def mean(name: str, best: npt.NDArray[np.float64]) -> float:
        sums = np.bincount(of, per_case(ranks, name), minlength=len(sizes))
        return math.fsum(sums / best) / len(sizes)

    found = {f"recall@{k}": mean(f"hr@{k}", sizes.astype(np.float64)) for k in ks}
    for k in ks:
        gains = np.cumsum(1 / np.log2(np.arange(k) + 2))
        found[f"ndcg@{k}"] = mean(f"ndcg@{k}", gains[np.minimum(sizes, k) - 1])
    return found
