"""Training, validation and test parts of a data set, by position or by time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pdrec_fast.data.histories import Histories, Holdout
from pdrec_fast.data.interactions import Interactions, read_only
from pdrec_fast.data.times import as_moment
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import indptr_of

_IDS_SHOWN = 5


def named_users(ids: Sequence[int | str]) -> str:
    """How many users and the first of them, as ``2 users (17, 'b')``."""
    shown = ", ".join(map(repr, ids[:_IDS_SHOWN]))
    more = ", ..." if len(ids) > _IDS_SHOWN else ""
    return f"{len(ids)} users ({shown}{more})"


@dataclass(frozen=True)
class SplitReport:
    """What a split did; ``str(report)`` tells it in a few lines.

    Attributes:
        method: the split and its arguments.
        n_users: users in the data.
        n_train: training records.
        n_valid: validation cases.
        n_test: test cases.
        left_out: reason -> raw ids of the users that it keeps from being evaluated.
    """

    method: str
    n_users: int
    n_train: int
    n_valid: int
    n_test: int
    left_out: dict[str, tuple[int | str, ...]]

    def __str__(self) -> str:
        lines = [
            f"{self.method} of {self.n_users} users",
            f"  training records: {self.n_train}",
            f"  validation cases: {self.n_valid}",
            f"  test cases: {self.n_test}",
        ]
        for reason, ids in self.left_out.items():
            if ids:
                lines.append(f"  {reason}: {named_users(ids)}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Split:
    """A data set and its parts, which share its user and item indices.

    Attributes:
        data: everything.
        train: the training records; some users and items may have none.
        valid: cases to select models with.
        test: cases to report.
        report: what was done, and who is not evaluated.
        sets: whether a user may have several held-out items, each a case of its own.

    Raises:
        DataError: a part is of other data, with other items.
    """

    data: Interactions
    train: Interactions
    valid: Holdout
    test: Holdout
    report: SplitReport
    sets: bool = False

    def __post_init__(self) -> None:
        for name in ("train", "valid", "test"):
            part = getattr(self, name)
            theirs = part.histories() if isinstance(part, Interactions) else part.histories
            known = theirs.catalogue is None or self.data.catalogue.is_that_of(theirs.catalogue)
            if theirs.n_items != self.data.n_items or not known:
                raise DataError(f"the {name} part of this split is of other data: its items differ")


def leave_one_out(interactions: Interactions, min_length: int = 3) -> Split:
    """Each user's last item is the test target, the one before it the validation target.

    The validation history is the user's training items; the test history also has the validation
    item. Users with fewer than ``min_length`` records train wholly and are reported, not
    evaluated.

    Of data with ``target_items``, only records of these are counted and held out: the cases are
    those of the target domain alone. A history is everything before its target, of both domains;
    other records after the validation target train nothing.

    Raises:
        ValueError: ``min_length`` is below 3, which leaves a user no training item.
        DataError: no user is long enough.
    """
    if min_length < 3:
        raise ValueError(f"min_length must be at least 3, got {min_length}")
    starts, stops = interactions.indptr[:-1], interactions.indptr[1:]
    targets = _target_records(interactions)
    # The user's targets are targets[first:end], of all records those of the user.
    first, end = starts, stops
    if targets is not None:
        first, end = np.searchsorted(targets, starts), np.searchsorted(targets, stops)
    evaluated = end - first >= min_length
    records = "records" if interactions.target_items is None else "records of the target domain"
    if not evaluated.any():
        raise DataError(
            f"nothing to evaluate: none of {interactions.n_users} users has {min_length} {records};"
            " bring longer histories, or split by time (--valid-from and --test-from)"
        )
    users = np.flatnonzero(evaluated)
    valid, test = end[users] - 2, end[users] - 1
    if targets is not None:
        valid, test = targets[valid], targets[test]
    train_lengths = stops - starts
    train_lengths[users] = valid - starts[users]
    return assembled(
        interactions,
        train_lengths=train_lengths,
        valid=_holdout(interactions, users, valid),
        test=_holdout(interactions, users, test),
        method="leave-one-out split",
        left_out={
            f"not evaluated, fewer than {min_length} {records} (kept in training)": ~evaluated
        },
    )


def global_time_split(interactions: Interactions, valid_from: Any, test_from: Any) -> Split:
    """Train on everything before ``valid_from``, as a system that is deployed at that time would.

    A user's validation case is the first record in [valid_from, test_from) after the history of
    all records before ``valid_from``; the test case is the first record at or after ``test_from``
    after all records before ``test_from``. A case without any history is left out and reported.
    Of data with ``target_items``, the first record of one of these is taken.

    Args:
        interactions: with timestamps.
        valid_from: a number in the unit of the timestamps, or a date or time: ISO 8601 text,
            ``datetime``, ``date``, pandas ``Timestamp``, ``datetime64``; UTC where it has no zone.
            It takes the unit of the timestamps, seconds to nanoseconds, as their size tells it.
        test_from: likewise, later than ``valid_from``.

    Raises:
        ValueError: the times are none of these, not finite or not in order, or dates where the
            timestamps are no unix times.
        DataError: no timestamps, or no validation or no test case is left.
    """
    if interactions.timestamps is None:
        raise DataError("the data has no timestamps to split by; use leave_one_out")
    valid, valid_words = _limit(interactions.timestamps, valid_from, "valid_from")
    test, test_words = _limit(interactions.timestamps, test_from, "test_from")
    if valid >= test:
        raise ValueError(f"need valid_from < test_from, got {valid_words} and {test_words}")
    starts = interactions.indptr[:-1]
    before_valid = _count_before(interactions, valid)
    before_test = _count_before(interactions, test)
    cases, due = {}, {}
    for name, known, stops in (
        ("validation", before_valid, starts + before_test),
        ("test", before_test, interactions.indptr[1:]),
    ):
        targets = _first_target(interactions, starts + known)
        due[name] = targets < stops
        users = np.flatnonzero(due[name] & (known > 0))
        if len(users) == 0:
            raise DataError(
                f"nothing to evaluate: no {name} case with valid_from={valid_words}, "
                f"test_from={test_words}, that is no user with a record then and one before; the "
                f"timestamps run from {interactions.timestamps.min()} to "
                f"{interactions.timestamps.max()}"
            )
        known_until = starts[users] + known[users]
        cases[name] = _holdout(interactions, users, targets[users], known_until)
    return assembled(
        interactions,
        train_lengths=before_valid,
        valid=cases["validation"],
        test=cases["test"],
        method=f"global time split (validation from {valid_words}, test from {test_words})",
        left_out={
            "no validation case, no record before valid_from": due["validation"]
            & (before_valid == 0),
            "no test case, no record before test_from": due["test"] & (before_test == 0),
        },
    )


def _limit(timestamps: np.ndarray, given: Any, argument: str) -> tuple[float, str]:
    """A limit of a split in the unit of the timestamps, and in words."""
    moment = as_moment(given, argument)
    value = moment.in_unit_of(timestamps, False, f"{argument}={given}").value
    number = int(value) if value.is_integer() else value
    return value, f"{given} ({number})" if moment.dated else str(given)


def assembled(
    data: Interactions,
    train_lengths: np.ndarray,
    valid: Holdout,
    test: Holdout,
    method: str,
    left_out: dict[str, np.ndarray],
    *,
    sets: bool = False,
) -> Split:
    """Assemble a split whose training part is the first ``train_lengths`` records of each user."""
    indptr = indptr_of(train_lengths)
    held_out = np.diff(data.indptr) - train_lengths
    trains = np.repeat(
        np.tile([True, False], data.n_users), np.stack([train_lengths, held_out], axis=1).ravel()
    )
    items = data.items[trains]
    times = None if data.timestamps is None else data.timestamps[trains]
    train = replace(data, **read_only(indptr=indptr, items=items, timestamps=times))
    report = SplitReport(
        method=method,
        n_users=data.n_users,
        n_train=train.n_records,
        n_valid=len(valid),
        n_test=len(test),
        left_out={
            reason: tuple(data.user_ids[users].tolist()) for reason, users in left_out.items()
        },
    )
    return Split(data, train, valid, test, report, sets)


def _target_records(data: Interactions) -> np.ndarray | None:
    """int64, ascending: the records that can be held out; None for all."""
    if data.target_items is None:
        return None
    return np.flatnonzero(data.target_items[data.items])


def _first_target(data: Interactions, records: np.ndarray) -> np.ndarray:
    """The first record at or after each of ``records`` that can be held out, of any user;
    ``data.n_records`` where there is none."""
    targets = _target_records(data)
    if targets is None:
        return records
    targets = np.append(targets, data.n_records)
    return targets[np.searchsorted(targets, records)]


def _holdout(
    data: Interactions, users: np.ndarray, targets: np.ndarray, known: np.ndarray | None = None
) -> Holdout:
    """Cases whose target is the record at ``targets`` and whose history ends before the record
    ``known``, by default before the target."""
    histories = Histories(
        items=data.items,
        timestamps=data.timestamps,
        users=users,
        starts=data.indptr[users],
        stops=targets if known is None else known,
        n_items=data.n_items,
        catalogue=data.catalogue,
    )
    return Holdout(histories, data.items[targets])


def _count_before(data: Interactions, time: float) -> np.ndarray:
    """int64 [n_users], each user's number of records earlier than ``time``."""
    assert data.timestamps is not None
    running = indptr_of(data.timestamps < time)
    return running[data.indptr[1:]] - running[data.indptr[:-1]]
