"""Who asks, and after which history: users of the data, of newer data, or anyone's clicks."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from pdrec_fast.checks import check_ordered
from pdrec_fast.data import Histories, Interactions
from pdrec_fast.data.ids import check_unicode, first_names
from pdrec_fast.data.times import BadTimeError, Times, times_of
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import indptr_of, row_indices

Unknown = Literal["raise", "skip", "popular"]
"""What becomes of people of whom the model knows nothing."""


@dataclass(frozen=True, eq=False)
class Queries:
    """B people to recommend to.

    Attributes:
        names: [B] raw user ids, or numbers from 0.
        histories: B, over the model's items.
        known: bool [B], whose history has an item that the model was trained on.
    """

    names: np.ndarray
    histories: Histories
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> Queries:
        return Queries(self.names[rows], self.histories[rows], self.known[rows])


def queries(
    catalogue: Interactions,
    trained: np.ndarray | None,
    users: Any = None,
    history: Any = None,
    times: Any = None,
    data: Interactions | None = None,
    unknown: str = "raise",
) -> Queries:
    """The people that ``recommend`` was asked for.

    Args:
        catalogue: the data that the model knows, whose items it numbers.
        trained: bool [n_items], the items it was trained on; None for all.
        users, history, times, data, unknown: see ``Recommender.recommend``.

    Raises:
        DataError, TypeError, ValueError: see ``Recommender.recommend``.
    """
    if unknown not in get_args(Unknown):
        raise ValueError(f"unknown={unknown!r}: choose one of {get_args(Unknown)}")
    if data is not None and not isinstance(data, Interactions):
        raise TypeError(
            f"data must be Interactions, not {type(data).__name__}: make them by "
            "Interactions.from_frame or from_file"
        )
    check_ordered(users=users, history=history, times=times)
    source = catalogue if data is None else data
    given = None if history is None else _given(catalogue, history, times)
    if given is None and times is not None:
        raise ValueError("times are those of a history: give history= too")
    if users is not None:
        names = source.user_ids[:0] if _is_empty(users) else _as_array(users)
        numbers = source.find_users(names)
    elif given is None:
        names, numbers = source.user_ids, np.arange(source.n_users)
    else:
        names, numbers = np.arange(len(given)), np.full(len(given), -1)
    if given is not None and len(given) != len(names):
        raise ValueError(
            f"{len(names)} users and {len(given)} histories: give one history for each user"
        )
    anonymous = users is None and given is not None
    there = numbers >= 0
    if given is None and unknown == "raise":
        _refuse(
            names[~there],
            "unknown user id(s)",
            "they are not in the data; unknown='popular' (on the command line --unknown popular) "
            "gives them popular items, 'skip' leaves them out",
        )
    histories = _of_catalogue(source, numbers, catalogue)
    if given is not None:
        histories = given if users is None else _joined(histories, given)
    known = _known(histories, trained)
    if unknown == "raise":
        _refuse(
            names[~known],
            f"{'histories, by place,' if anonymous else 'user(s)'} without interactions with items "
            "that the model was trained on",
            "nothing is known of them: unknown='popular' (on the command line --unknown popular) "
            "gives them popular items, 'skip' leaves them out",
        )
    return Queries(_own_ids(source, names, numbers), histories, known)


def _own_ids(source: Interactions, names: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The ids as the data have them: int64 where all are integers, else str objects if any are.

    Raises:
        DataError: one that no file can be written with.
    """
    there = numbers >= 0
    own = np.empty(len(names), dtype=object)
    own[:] = names.tolist()
    own[there] = source.user_ids[numbers[there]]
    if all(isinstance(name, (int, np.integer)) for name in own):
        return own.astype(np.int64)
    own[:] = [str(name) for name in own]
    check_unicode(own)
    return own


def _is_empty(users: Any) -> bool:
    return not isinstance(users, str) and hasattr(users, "__len__") and len(users) == 0


def _as_array(ids: Any) -> np.ndarray:
    """One id or several as objects, [n]."""
    ids = as_list(ids)
    ids = ids if isinstance(ids, list) else [ids]
    nested = [name for name in ids if isinstance(as_list(name), list)]
    if nested:
        raise TypeError(f"expected raw ids in one list, got {nested[0]!r} within it")
    array = np.empty(len(ids), dtype=object)
    array[:] = ids
    return array


def _refuse(names: np.ndarray, what: str, advice: str) -> None:
    if len(names):
        raise DataError(f"{len(names)} {what}: {first_names(names)}; {advice}")


def _of_catalogue(source: Interactions, numbers: np.ndarray, catalogue: Interactions) -> Histories:
    """The histories of the users ``numbers`` (-1: an empty one) over the model's items."""
    there = numbers >= 0
    at = np.where(there, numbers, 0)
    starts, stops = source.indptr[at], source.indptr[np.minimum(at + 1, source.n_users)]
    histories = Histories(
        items=source.items,
        timestamps=source.timestamps,
        users=at,
        starts=starts,
        stops=np.where(there, stops, starts),
        n_items=source.n_items,
        catalogue=source.catalogue,
    )
    if source.catalogue.is_that_of(catalogue.catalogue):
        return histories
    number_of = catalogue.find_items(source.item_ids)
    missing = int((number_of < 0)[histories.packed()[1]].sum())
    if missing:
        warnings.warn(
            f"{missing} record(s) of {int((number_of < 0).sum())} item(s) of the data are left "
            "out: the model has never seen these items",
            stacklevel=4,
        )
    return histories.renumbered(number_of, catalogue.catalogue, catalogue.n_items)


def _given(catalogue: Interactions, history: Any, times: Any) -> Histories:
    """Raw items, and perhaps times, of one person or several."""
    rows = _rows(history, "history")
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    flat = _as_array([item for row in rows for item in row]) if lengths.sum() else np.empty(0, "O")
    items = catalogue.find_items(flat)
    when = None
    if times is not None:
        moments = _rows(times, "times")
        if [len(row) for row in moments] != lengths.tolist():
            raise ValueError("times must have one value for each item of the history")
        person = np.repeat(np.arange(len(rows)), lengths)
        exact = _exact_times([time for row in moments for time in row])
        finer = () if exact.part is None else (exact.part,)
        order = np.lexsort((*finer, exact.keys, person))
        flat, items, when = flat[order], items[order], exact.values[order]
    missing = flat[items < 0]
    if len(missing):
        warnings.warn(
            f"{len(missing)} item(s) of the history are left out, the model has never seen them: "
            f"{first_names(missing)}",
            stacklevel=4,
        )
    stays = items >= 0
    bounds = indptr_of(stays)[indptr_of(lengths)]
    return Histories(
        items=items[stays].astype(np.int32),
        timestamps=None if when is None else when[stays],
        users=np.arange(len(rows)),
        starts=bounds[:-1],
        stops=bounds[1:],
        n_items=catalogue.n_items,
        catalogue=catalogue.catalogue,
    )


def _exact_times(given: list[Any]) -> Times:
    if not given:
        return Times(np.empty(0))
    try:
        return times_of(given)
    except BadTimeError as error:
        raise ValueError(f"times: {given[error.row]!r}: {error}") from None


def _rows(values: Any, name: str) -> list[Any]:
    """One row for each person: of a flat list, one."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} must be a list for one person, or a list of lists, got {values!r}")
    given = as_list(values)
    for row in given:
        check_ordered(**{f"a row of {name}": row})
    rows = [as_list(row) for row in given]
    nested = [isinstance(row, list) for row in rows]
    if rows and all(nested):
        return rows
    if any(nested):
        raise TypeError(
            f"{name} mixes lists and single values: give one list for one person, or one for each"
        )
    return [rows]


def as_list(values: Any) -> Any:
    """Several ids as a list; one as it is."""
    for name in ("to_pylist", "tolist", "to_list"):
        if hasattr(values, name):
            return getattr(values, name)()
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        return values
    return list(values)


def _joined(before: Histories, after: Histories) -> Histories:
    """Each history continued by another of the same person.

    Where only the first has times, what follows happens at once, at the latest time of all; where
    only the second has, nobody's times are known.
    """
    old_indptr, old_items, old_times = before.packed()
    indptr, items, times = after.packed()
    if times is None and old_times is not None:
        latest = before.timestamps.max(initial=0.0) if before.timestamps is not None else 0.0
        times = np.full(len(items), latest)
    elif old_times is None:
        times = None
    people = np.concatenate([row_indices(old_indptr), row_indices(indptr)])
    joined_times = None
    keys: tuple[np.ndarray, ...] = (people,)
    if times is not None and old_times is not None:
        joined_times = np.concatenate([old_times, times])
        keys = (joined_times, people)
    order = np.lexsort(keys)  # stable: at equal times the known records come first
    bounds = indptr_of(before.lengths + after.lengths)
    return replace(
        before,
        items=np.concatenate([old_items, items])[order],
        timestamps=None if joined_times is None else joined_times[order],
        starts=bounds[:-1],
        stops=bounds[1:],
    )


def _known(histories: Histories, trained: np.ndarray | None) -> np.ndarray:
    """Whose history has an item that was trained on, bool [B]."""
    if trained is None:
        return histories.lengths > 0
    # Sums over the flat items, so that no history is copied.
    before = indptr_of(trained[histories.items])
    return before[histories.stops] > before[histories.starts]
