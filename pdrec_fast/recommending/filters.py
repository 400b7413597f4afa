"""Which items may be recommended to whom."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pdrec_fast.checks import check_no_mapping
from pdrec_fast.data import Histories, Interactions
from pdrec_fast.data.ids import first_names
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import Ragged, row_indices
from pdrec_fast.recommending.queries import as_list


@dataclass(frozen=True, eq=False)
class ItemList:
    """Items of everybody (one row), or of each of B people.

    Attributes:
        rows: int64 values, item indices, ascending and distinct within a row.
        shared: whether the one row is everybody's.
    """

    rows: Ragged
    shared: bool


def _own(found: ItemList | None) -> Ragged | None:
    """Each person's rows, where there are such."""
    return None if found is None or found.shared else found.rows


@dataclass(frozen=True, eq=False)
class Filter:
    """What may be recommended to B people, of N items.

    Attributes:
        never: bool [N], what is recommended to nobody.
        allowed: the only items of each person, or None.
        blocked: items that a person does not get, or None.
        filter_seen: whether a person's own items are left out.
    """

    never: np.ndarray
    allowed: Ragged | None
    blocked: Ragged | None
    filter_seen: bool

    @staticmethod
    def of(
        catalogue: Interactions,
        allowed: ItemList | None,
        blocked: ItemList | None,
        filter_seen: bool,
    ) -> Filter:
        """Joins what holds for everybody."""
        never = np.zeros(catalogue.n_items, dtype=bool)
        if catalogue.target_items is not None:
            never |= ~catalogue.target_items
        if allowed is not None and allowed.shared:
            outside = np.ones(catalogue.n_items, dtype=bool)
            outside[allowed.rows.values] = False
            never |= outside
        if blocked is not None and blocked.shared:
            never[blocked.rows.values] = True
        return Filter(never, _own(allowed), _own(blocked), filter_seen)

    def mask(self, scores: torch.Tensor, histories: Histories, block: slice) -> None:
        """Set what may not be recommended to -inf, in place; ``scores`` [B, N] on any device."""
        device = scores.device
        if self.never.any():
            scores.masked_fill_(torch.from_numpy(self.never).to(device), -torch.inf)
        if self.allowed is not None:
            rows = self.allowed.rows(block)
            outside = torch.ones(scores.shape, dtype=torch.bool)
            outside[torch.from_numpy(rows.row_indices), torch.from_numpy(rows.values)] = False
            scores.masked_fill_(outside.to(device), -torch.inf)
        rows = self.left_out(histories, block)
        at = torch.from_numpy(rows.row_indices), torch.from_numpy(rows.values.astype(np.int64))
        scores[at[0].to(device), at[1].to(device)] = -torch.inf

    def left_out(self, histories: Histories, block: slice) -> Ragged:
        """The items that each person of a block has seen or may not get: int32, ascending and
        distinct within a row."""
        rows, items = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        if self.blocked is not None:
            own = self.blocked.rows(block)
            rows.append(own.row_indices)
            items.append(own.values)
        if self.filter_seen:
            indptr, seen, _ = histories.packed()
            rows.append(row_indices(indptr))
            items.append(seen.astype(np.int64))
        n_items = len(self.never)
        pairs = np.unique(np.concatenate(rows) * n_items + np.concatenate(items))
        counts = np.bincount(pairs // n_items, minlength=len(histories))
        return Ragged.from_lengths((pairs % n_items).astype(np.int32), counts)


def item_list(catalogue: Interactions, given: Any, name: str, n_people: int) -> ItemList | None:
    """Raw item ids of everybody, or a list of them for each person, as indices.

    Ids that the catalogue does not have are counted in a warning in an allow-list; in a block-list
    they change nothing.

    Raises:
        TypeError, ValueError: no list, or not one for each of ``n_people``.
        DataError: an allow-list without one known item.
    """
    if given is None:
        return None
    check_no_mapping(name, given)
    if isinstance(given, (str, bytes)) or not hasattr(given, "__iter__"):
        raise TypeError(f"{name} must be a list of item ids, or one list per person, got {given!r}")
    given = [as_list(row) for row in as_list(given)]
    nested = [isinstance(row, list) for row in given]
    shared = not (given and all(nested))
    if shared and any(nested):
        raise TypeError(f"{name} mixes lists and single ids: give one list, or one per person")
    if not shared and len(given) != n_people:
        raise ValueError(f"{name} has {len(given)} lists for {n_people} people: give one for each")
    rows = [given] if shared else given
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    flat = np.empty(int(lengths.sum()), dtype=object)
    flat[:] = [item for row in rows for item in row]
    found = catalogue.find_items(flat)
    people = np.repeat(np.arange(len(rows)), lengths)
    there = found >= 0
    if name == "items":
        _tell_missing(flat[~there], len(flat))
    pairs = np.unique(people[there] * catalogue.n_items + found[there])
    counts = np.bincount(pairs // catalogue.n_items, minlength=len(rows))
    return ItemList(Ragged.from_lengths(pairs % catalogue.n_items, counts), shared)


def _tell_missing(missing: np.ndarray, of: int) -> None:
    if not len(missing):
        return
    shown = first_names(missing)
    if len(missing) == of:
        raise DataError(f"the model knows none of the {of} item ids of items=: {shown}")
    warnings.warn(
        f"{len(missing)} of {of} item ids of items= are unknown to the model and cannot be "
        f"recommended: {shown}",
        stacklevel=4,
    )
