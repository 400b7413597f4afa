"""Batches of users' histories as views on one flat array, and the cases to evaluate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pdrec_fast.data.catalogue import Catalogue
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import indptr_of, ranges


@dataclass(frozen=True, eq=False)
class Histories:
    """A batch of prefixes of users' sequences; the flat arrays are shared, never copied.

    History ``b`` is ``items[starts[b]:stops[b]]``, in chronological order.

    Attributes:
        items: int32 [n_records], every user's items.
        timestamps: float64 [n_records], or None.
        users: int64 [B], user index of each history.
        starts: int64 [B].
        stops: int64 [B].
        n_items: number of items in the catalogue.
        catalogue: which items those are, ``Interactions.catalogue``; a model refuses the histories
            of another. None, of histories made by hand, is not compared.

    Raises:
        ValueError: arrays of different lengths, bounds outside ``items``, or an item that is none
            of the ``n_items``.
    """

    items: np.ndarray
    timestamps: np.ndarray | None
    users: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    n_items: int
    catalogue: Catalogue | None = None

    def __post_init__(self) -> None:
        for name in ("users", "starts", "stops"):
            array = np.asarray(getattr(self, name), dtype=np.int64)
            if array.ndim != 1:
                raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
            object.__setattr__(self, name, array)
        if not len(self.users) == len(self.starts) == len(self.stops):
            raise ValueError(
                f"users, starts and stops must be equally long, got {len(self.users)}, "
                f"{len(self.starts)} and {len(self.stops)}"
            )
        if self.timestamps is not None and len(self.timestamps) != len(self.items):
            raise ValueError(
                f"timestamps has {len(self.timestamps)} values for {len(self.items)} items"
            )
        if len(self) and (
            self.starts.min() < 0
            or self.stops.max() > len(self.items)
            or (self.starts > self.stops).any()
        ):
            raise ValueError(f"need 0 <= starts <= stops <= {len(self.items)} for every history")
        if self.catalogue is None and len(self):
            found = self.items[self.starts.min() : self.stops.max()]
            if len(found) and not 0 <= found.min() <= found.max() < self.n_items:
                raise ValueError(
                    f"items must lie in 0..{self.n_items - 1}, got {found.min()} to {found.max()}"
                )

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        return f"Histories({len(self)} histories, {int(self.lengths.sum())} records)"

    @property
    def lengths(self) -> np.ndarray:
        """int64 [B], number of records of each history."""
        return self.stops - self.starts

    def __getitem__(self, index: slice | np.ndarray | list[int]) -> Histories:
        """Choose histories by a slice, an array of positions or a boolean mask over the batch."""
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.ndim != 1:
                raise TypeError(
                    "index histories by a slice or a one-dimensional array; "
                    "for history b alone write histories[b : b + 1]"
                )
            if len(index) == 0:
                index = index.astype(np.int64)
        return replace(
            self, users=self.users[index], starts=self.starts[index], stops=self.stops[index]
        )

    def only(self, items: np.ndarray) -> Histories:
        """The same histories without some items.

        Args:
            items: bool [n_items], which stay.
        """
        indptr, found, timestamps = self.packed()
        stays = items[found]
        before = indptr_of(stays)
        return replace(
            self,
            items=found[stays],
            timestamps=None if timestamps is None else timestamps[stays],
            starts=before[indptr[:-1]],
            stops=before[indptr[1:]],
        )

    def renumbered(self, numbers: np.ndarray, catalogue: Catalogue, n_items: int) -> Histories:
        """The same histories over another catalogue, without the items that it does not have.

        Args:
            numbers: int64 [n_items of this catalogue], each item's index there; -1 for none.
            catalogue, n_items: that catalogue.
        """
        found = numbers[self.items]
        stays = found >= 0
        before = indptr_of(stays)
        return replace(
            self,
            items=found[stays].astype(np.int32),
            timestamps=None if self.timestamps is None else self.timestamps[stays],
            starts=before[self.starts],
            stops=before[self.stops],
            n_items=n_items,
            catalogue=catalogue,
        )

    def packed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Gather the histories into one contiguous copy.

        Returns:
            ``indptr`` int64 [B + 1], ``items`` int32 [indptr[-1]] and ``timestamps`` float64 of
            the same length, or None: history ``b`` is ``items[indptr[b]:indptr[b + 1]]``.
        """
        indptr = indptr_of(self.lengths)
        positions = ranges(self.starts, self.lengths)
        timestamps = None if self.timestamps is None else self.timestamps[positions]
        return indptr, self.items[positions], timestamps


def check_catalogue(histories: Histories, n_items: int, catalogue: Catalogue | None) -> None:
    """Raise a DataError where the histories are not over a model's items.

    Args:
        n_items, catalogue: the model's; None where only the number is known.
    """
    if histories.n_items != n_items:
        raise DataError(
            f"the histories are over {histories.n_items} items, this model was fitted on "
            f"{n_items}: index both by the same catalogue"
        )
    theirs = histories.catalogue
    if catalogue is not None and theirs is not None and not catalogue.is_that_of(theirs):
        raise DataError(
            f"the histories are over {n_items} items, but others than those that this model was "
            "fitted on: index both by the same catalogue, that of the data of fit"
        )


@dataclass(frozen=True, eq=False)
class Holdout:
    """One evaluation case per user: rank ``targets[i]`` given history ``i``.

    Attributes:
        histories: what is known when the target is predicted.
        targets: int32 [n], the item that follows.
    """

    histories: Histories
    targets: np.ndarray

    def __post_init__(self) -> None:
        targets = np.asarray(self.targets, dtype=np.int32)
        if targets.shape != (len(self.histories),):
            raise ValueError(
                f"targets must hold one item for each of {len(self.histories)} histories, "
                f"got shape {targets.shape}"
            )
        object.__setattr__(self, "targets", targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: slice | np.ndarray) -> Holdout:
        """Choose cases by a slice, an array of positions or a boolean mask."""
        return Holdout(self.histories[index], self.targets[index])

    @property
    def users(self) -> np.ndarray:
        """int64 [n], user index of each case."""
        return self.histories.users
