"""A split that is given: training, validation and test records in data sets of their own."""

from __future__ import annotations

import warnings

import numpy as np

from pdrec_fast.data.histories import Histories, Holdout
from pdrec_fast.data.interactions import Interactions
from pdrec_fast.data.splits import Split, assembled
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import indptr_of, row_indices


def given_split(train: Interactions, valid: Interactions, test: Interactions) -> Split:
    """Three parts of one data set, several held-out items a user: the protocol of DiffRec's paper
    (Wang et al. 2023), whose figures ``evaluate_sets`` gives.

    Every held-out item of a user is a case of its own, after the same history: the training
    records for validation, training and validation records for the test. (DiffRec's code has the
    latter with ``--tst_w_val``.) Users without a training record are not evaluated, an item is
    held out of a user once, and not where the history has it; the report names these users.

    Ids are matched as they are, all numbers or all text. A user's records are in the order of the
    parts and of time within each. Times that contradict the order of the parts are left aside, with
    a warning.

    Args:
        train, valid, test: the parts, plain data sets.

    Raises:
        ValueError: a part is a mixture of domains or has item features.
        DataError: ids are numbers in one part and text in another; or nothing is left to evaluate.
    """
    parts = {"training": train, "validation": valid, "test": test}
    for name, part in parts.items():
        if part.target_items is not None or part.item_features is not None:
            raise ValueError(f"the {name} part has two domains or item features: give plain data")
    data, counts = _joined(parts)
    n_train, n_known = counts[0], counts[0] + counts[1]
    repeated = {}
    holdouts = {}
    for name, begin, stop in (
        ("validation", n_train, n_known),
        ("test", n_known, np.diff(data.indptr)),
    ):
        holdouts[name], repeated[name] = _cases(data, n_train > 0, begin, stop)
        if not len(holdouts[name]):
            raise DataError(
                f"nothing to evaluate: no record of the {name} part is of a user with training "
                "records and of an item that the user does not have yet"
            )
    reasons = {
        "not evaluated, no training record": (n_train == 0) & (np.diff(data.indptr) > 0),
        **{
            f"some {name} records left out, of items that the user has": users
            for name, users in repeated.items()
        },
    }
    return assembled(
        data,
        train_lengths=n_train,
        valid=holdouts["validation"],
        test=holdouts["test"],
        method="given split",
        left_out=reasons,
        sets=True,
    )


def _joined(parts: dict[str, Interactions]) -> tuple[Interactions, np.ndarray]:
    """All records, a user's in the order of the parts, and how many each user has in each part:
    int64 [3, n_users]."""
    found = list(parts.values())
    user_ids, users = _together(parts, "user")
    item_ids, items = _together(parts, "item")
    record_users = [number[part.record_users] for number, part in zip(users, found, strict=True)]
    counts = np.stack([np.bincount(each, minlength=len(user_ids)) for each in record_users])
    order = np.argsort(np.concatenate(record_users), kind="stable")
    indptr = indptr_of(counts.sum(axis=0))
    times = None
    if all(part.timestamps is not None for part in found):
        times = np.concatenate([part.timestamps for part in found])[order]
        first = np.zeros(len(times), dtype=bool)
        first[indptr[:-1][np.diff(indptr) > 0]] = True
        if (np.diff(times, prepend=-np.inf) < 0)[~first].any():
            times = None
            warnings.warn(
                "a held-out record is earlier than one before it: the order of the parts counts, "
                "and times are left aside (weights by time are weights by rank)",
                stacklevel=3,
            )
    joined = np.concatenate([n[part.items] for n, part in zip(items, found, strict=True)])
    return Interactions(indptr, joined[order].astype(np.int32), times, user_ids, item_ids), counts


def _together(parts: dict[str, Interactions], kind: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sorted distinct ids of all parts, and each part's numbers of its own."""
    ids = {name: getattr(part, f"{kind}_ids") for name, part in parts.items()}
    kinds = {name: "numbers" if each.dtype == np.int64 else "text" for name, each in ids.items()}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{what} in the {name} part" for name, what in kinds.items())
        raise DataError(f"the {kind} ids are {told}: write all as numbers, or all as text")
    every, numbers = np.unique(np.concatenate(list(ids.values())), return_inverse=True)
    sizes = np.cumsum([len(each) for each in ids.values()])[:-1]
    return every, np.split(numbers, sizes)


def _cases(
    data: Interactions, evaluated: np.ndarray, begin: np.ndarray, stop: np.ndarray
) -> tuple[Holdout, np.ndarray]:
    """A case for each record ``begin`` .. ``stop`` of each user (int64 [n_users], counted from the
    user's first), and the users, bool, of whom one was left out because the item came before."""
    users = row_indices(data.indptr)
    place = np.arange(data.n_records) - data.indptr[users]
    keys = users * data.n_items + data.items
    first = np.zeros(data.n_records, dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True  # records are in order: the earliest
    held_out = (place >= begin[users]) & (place < stop[users]) & evaluated[users]
    records = np.flatnonzero(held_out & first)
    repeated = np.zeros(data.n_users, dtype=bool)
    repeated[users[held_out & ~first]] = True
    of = users[records]
    histories = Histories(
        items=data.items,
        timestamps=data.timestamps,
        users=of,
        starts=data.indptr[of],
        stops=data.indptr[of] + begin[of],
        n_items=data.n_items,
        catalogue=data.catalogue,
    )
    return Holdout(histories, data.items[records]), repeated
