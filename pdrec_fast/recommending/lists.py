"""What lists are like as a whole, beside how often they are right."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pdrec_fast.data import Interactions
from pdrec_fast.errors import DataError
from pdrec_fast.recommending.recommendations import Recommendations


def list_metrics(found: Recommendations, train: Interactions) -> dict[str, float]:
    """How varied, how even and how obvious recommendations are.

    Args:
        found: what ``recommend`` returned, of all people whose lists are to be described: one
            person's say little. Rows of ``fallback`` count like others.
        train: the interactions that popularity is counted in, ``split.train``.

    Returns:
        ``coverage``: share of the items that may be recommended which occur in some list;
        ``gini``: how unequally they occur, from 0, all alike, to nearly 1, one alone;
        ``mean_records``: training records of a recommended item, in the mean;
        ``novelty``: mean of -log2(share of the users who have the item), in bits; an item that
        nobody has counts as had by one.

    Raises:
        DataError: an item that ``train`` does not know, or no recommendation at all.
    """
    given = train.find_items(found.items[found.scores > -np.inf])
    if (given < 0).any():
        unknown = found.items[found.scores > -np.inf][given < 0][0]
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
    return {
        "coverage": float((times_given > 0).mean()),
        "gini": _gini(times_given),
        "mean_records": float(records[given].mean()),
        "novelty": float(rarity[given].mean()),
    }


def _gini(counts: npt.NDArray[np.int64]) -> float:
    ordered = np.sort(counts)
    n = len(ordered)
    return float(((2 * np.arange(1, n + 1) - n - 1) @ ordered) / (n * ordered.sum()))
