"""What lists are like as a whole, beside how often they are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pdrec_fast.data import Interactions
from pdrec_fast.errors import DataError
from pdrec_fast.recommending.recommendations import Recommendations

_BLOCK = 1 << 22  # numbers of the vectors of so many lists' items are held at once


def list_metrics(
    found: Recommendations, train: Interactions, vectors: Any = None
) -> dict[str, float]:
    """How varied, how even and how obvious recommendations are.

    Args:
        found: what ``recommend`` returned, of all people whose lists are to be described: one
            person's say little. Rows of ``fallback`` count like others.
        train: the interactions that popularity is counted in, ``split.train``.
        vectors: floats [n_items, H] (NumPy or PyTorch) in the order of ``train.item_ids``, whose
            directions say how alike items are: features of yours, or ``model.item_directions()``.
            Models are compared by the same ones.

    Returns:
        ``coverage``: share of the items that may be recommended which occur in some list;
        ``gini``: how unequally they occur, from 0, all alike, to nearly 1, one alone;
        ``mean_records``: training records of a recommended item, in the mean;
        ``novelty``: mean of -log2(share of the users who have the item), in bits; an item that
        nobody has counts as had by one; with ``vectors``, ``diversity`` within lists: one less
        the cosine of two items of a list, in the mean over its pairs and then over the lists of two
        items and more; 0, all alike, to 2. An item whose vector is zero is like no other.

    Raises:
        DataError: an item that ``train`` does not know, no recommendation at all, or for
            ``diversity`` no list of two.
        ValueError: ``vectors`` of another shape, or not finite.
    """
    there = found.scores > -np.inf
    given = train.find_items(found.items[there])
    if (given < 0).any():
        unknown = found.items[there][given < 0][0]
        raise DataError(
            f"item {str(unknown)!r} is recommended, but not in the interactions; pass those that "
            "the model was fitted on"
        )
    if len(given) == 0:
        raise DataError("no item is recommended to anybody: there are no lists to describe")
    may = np.ones(train.n_items, bool) if train.target_items is None else train.target_items
    times_given = np.bincount(given, minlength=train.n_items)[may]
    records = np.bincount(train.items, minlength=train.n_items)
    users = np.bincount(train.unique_items().values, minlength=train.n_items)
    rarity = -np.log2(np.maximum(users, 1) / train.n_users)
    metrics = {
        "coverage": float((times_given > 0).mean()),
        "gini": _gini(times_given),
        "mean_records": float(records[given].mean()),
        "novelty": float(rarity[given].mean()),
    }
    if vectors is not None:
        metrics["diversity"] = _diversity(there, given, _unit(vectors, train.n_items))
    return metrics


def _unit(vectors: Any, n_items: int) -> npt.NDArray[np.float32]:
    given = np.asarray(vectors, dtype=np.float32)
    if given.ndim != 2 or len(given) != n_items:
        raise ValueError(
            f"vectors must be [n_items, H] with {n_items} rows, one for each item of the "
            f"interactions; got {list(given.shape)}"
        )
    if not np.isfinite(given).all():
        row = int(np.flatnonzero(~np.isfinite(given).all(axis=1))[0])
        raise ValueError(f"vectors must be finite; row {row} is not")
    lengths = np.linalg.norm(given, axis=1, keepdims=True)
    return np.divide(given, lengths, out=np.zeros_like(given), where=lengths > 0)


def _diversity(
    there: npt.NDArray[np.bool_], given: npt.NDArray[np.int64], unit: npt.NDArray[np.float32]
) -> float:
    """The square of the sum of a list's vectors is that of all of its pairs, and of each with
    itself.

    Args:
        there: [B, k], where lists have items.
        given: these, row by row, as rows of ``unit``.
    """
    ends = there.sum(axis=1).cumsum()
    step = max(1, _BLOCK // (there.shape[1] * unit.shape[1]))
    total, n_lists = 0.0, 0
    for start in range(0, len(there), step):
        rows = there[start : start + step]
        first = ends[start - 1] if start else 0
        of_lists = np.zeros((*rows.shape, unit.shape[1]), np.float32)
        of_lists[rows] = unit[given[first : first + rows.sum()]]
        sums = of_lists.sum(axis=1, dtype=np.float64)
        pairs = (sums**2).sum(axis=1) - (of_lists.astype(np.float64) ** 2).sum(axis=(1, 2))
        n = rows.sum(axis=1)
        total += float((1 - pairs[n > 1] / (n * (n - 1))[n > 1]).sum())
        n_lists += int((n > 1).sum())
    if n_lists == 0:
        raise DataError("no list has two items: there is no diversity within lists of one")
    return total / n_lists


def _gini(counts: npt.NDArray[np.int64]) -> float:
    ordered = np.sort(counts)
    n = len(ordered)
    return float(((2 * np.arange(1, n + 1) - n - 1) @ ordered) / (n * ordered.sum()))
