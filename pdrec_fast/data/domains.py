"""Two domains with shared users as one data set: the paper's setting (M)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pdrec_fast.data.interactions import Interactions
from pdrec_fast.data.ordering import chronological_order
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import indptr_of

SOURCE_PREFIX = "source:"


def read_domains(target: str | Path, source: str | Path | None, **reading: Any) -> Interactions:
    """One file, or two as one data set where there is a ``source``.

    Args:
        reading: of ``Interactions.from_file``, for both files.
    """
    found = Interactions.from_file(target, **reading)
    if source is None:
        return found
    return mix_domains(found, Interactions.from_file(source, **reading))


def mix_domains(target: Interactions, source: Interactions) -> Interactions:
    """Both domains' records in one time order, to recommend items of the target domain.

    Every user of either domain is kept; ``17`` and ``"17"`` are the same user. Items stay apart:
    the target's keep their raw ids as text, the source's get the prefix ``source:``, so that the
    same raw id in both domains is two items. The result's ``target_items`` tells them apart: splits
    hold out, evaluation ranks and ``PDRec.recommend`` gives items of the target alone, while
    histories, the diffusion's corpus and the negatives of training are those of both (the paper
    mixes the behaviours and says nothing else of training).

    Where times are equal, the target's records come first: nothing of the source that may have
    come later is taken for history.

    Raises:
        ValueError: one of the two is itself a mixture.
        DataError: a domain has no timestamps, so that there is no common order; or no user occurs
            in both.
    """
    for name, data in (("target", target), ("source", source)):
        if data.target_items is not None:
            raise ValueError(f"the {name} is already a mixture of domains; mix two plain ones")
    times = np.concatenate(_common_times(target, source))
    user_ids, users = _common_users(target, source)
    items = np.concatenate([target.items, source.items + np.int32(target.n_items)])
    order = chronological_order(users, times)
    return Interactions(
        indptr=indptr_of(np.bincount(users, minlength=len(user_ids))),
        items=items[order],
        timestamps=times[order],
        user_ids=user_ids,
        item_ids=_separate_items(target, source),
        target_items=np.arange(target.n_items + source.n_items) < target.n_items,
    )


def _common_times(target: Interactions, source: Interactions) -> tuple[np.ndarray, np.ndarray]:
    if target.timestamps is None or source.timestamps is None:
        raise DataError(
            f"the {'target' if target.timestamps is None else 'source'} has no timestamps, so the "
            "records of the two domains have no common order; if a column of another name holds "
            "them, read it with timestamp=, on the command line --timestamp-column"
        )
    begin, end = target.timestamps.min(), target.timestamps.max()
    source_begin, source_end = source.timestamps.min(), source.timestamps.max()
    if source_begin > end or source_end < begin:
        warnings.warn(
            f"the domains never overlap in time: the target runs from {begin} to {end}, the source "
            f"from {source_begin} to {source_end}; are both in the same unit?",
            stacklevel=3,
        )
    return target.timestamps, source.timestamps


def _common_users(target: Interactions, source: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct ids of both (int64 where all are, else str objects), and every record's
    index into them, the target's first."""
    ids = [target.user_ids, source.user_ids]
    if not target.user_ids.dtype == source.user_ids.dtype == np.int64:
        ids = [np.array([str(name) for name in of.tolist()], dtype=object) for of in ids]
    user_ids, numbers = np.unique(np.concatenate(ids), return_inverse=True)
    if len(user_ids) == len(numbers):
        raise DataError(
            f"no user occurs in both domains (the target has {ids[0][0]}, the source "
            f"{ids[1][0]}): give the same person the same id in both"
        )
    of_target, of_source = np.split(numbers, [target.n_users])
    return user_ids, np.concatenate(
        [of_target[target.record_users], of_source[source.record_users]]
    )


def _separate_items(target: Interactions, source: Interactions) -> np.ndarray:
    ids = [str(name) for name in target.item_ids.tolist()]
    clash = next((name for name in ids if name.startswith(SOURCE_PREFIX)), None)
    if clash is not None:
        raise DataError(
            f"the target's item {clash!r} begins like those of the source ({SOURCE_PREFIX!r}); "
            "rename it"
        )
    return np.array([*ids, *(f"{SOURCE_PREFIX}{name}" for name in source.item_ids)], dtype=object)
