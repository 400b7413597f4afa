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
    """Read one file, or two domains as one data set.

    Args:
        target: file of the target domain, or of the only one.
        source: file of the source domain; None where there is none.
        reading: options of ``Interactions.from_file``, for both files; ``limit_users`` draws from
            the target domain's users, and the source domain is read of the same.

    Raises:
        DataError: see ``Interactions.from_file`` and ``mix_domains``.
    """
    found = Interactions.from_file(target, **reading)
    if source is None:
        return found
    if reading.pop("limit_users", None) is None:
        return mix_domains(found, Interactions.from_file(source, **reading))
    other = Interactions.from_file(source, **reading)
    sample = set(map(str, found.user_ids.tolist()))
    kept = [user for user, name in enumerate(other.user_ids.tolist()) if str(name) in sample]
    return mix_domains(found, other.of_users(kept))


def mix_domains(target: Interactions, source: Interactions) -> Interactions:
    """Both domains' records in one time order, to recommend items of the target domain.

    Every user of either domain is kept; ``17`` and ``"17"`` are the same user. Items stay apart:
    those of the target domain keep their raw ids as text, those of the source domain get the prefix
    ``source:``, so that the same raw id in both domains is two items. The result's
    ``target_items`` tells them apart: splits hold out, evaluation ranks and ``PDRec.recommend``
    gives items of the target domain alone, while histories, the diffusion's corpus and the
    negatives of training are those of both. (The paper mixes the behaviours and does not say how
    training treats the two domains.)

    Where times are equal, the target domain's records come first, so that no record of the source
    domain that may have come later counts as history.

    Args:
        target: interactions of the target domain.
        source: interactions of the source domain.

    Raises:
        ValueError: one of the two is a mixture already.
        DataError: a domain has no timestamps, so that there is no common order; or no user occurs
            in both.
    """
    for name, data in (("target", target), ("source", source)):
        if data.target_items is not None:
            raise ValueError(f"the {name} domain is already a mixture; mix two plain ones")
        if data.item_features is not None:
            raise ValueError(
                f"the {name} domain has item features: mix first, then with_item_features"
            )
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
        name = "target" if target.timestamps is None else "source"
        raise DataError(
            f"the {name} domain has no timestamps, so the records of the two have no common order; "
            "if a column of another name holds them, read it with timestamp=, on the command line "
            "--timestamp-column"
        )
    begin, end = target.timestamps.min(), target.timestamps.max()
    source_begin, source_end = source.timestamps.min(), source.timestamps.max()
    if source_begin > end or source_end < begin:
        warnings.warn(
            f"the domains never overlap in time: the target domain runs from {begin} to {end}, the "
            f"source domain from {source_begin} to {source_end}; are both in the same unit?",
            stacklevel=3,
        )
    return target.timestamps, source.timestamps


def _common_users(target: Interactions, source: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct ids of both (int64 where all are, else str objects), and every record's
    index into them, the target domain's first."""
    ids = [target.user_ids, source.user_ids]
    if not target.user_ids.dtype == source.user_ids.dtype == np.int64:
        ids = [np.array(list(map(str, raw.tolist())), dtype=object) for raw in ids]
    user_ids, numbers = np.unique(np.concatenate(ids), return_inverse=True)
    if len(user_ids) == len(numbers):
        raise DataError(
            f"no user occurs in both domains (the target domain has {ids[0][0]}, the source domain "
            f"{ids[1][0]}): give the same person the same id in both"
        )
    targets, sources = np.split(numbers, [target.n_users])
    return user_ids, np.concatenate([targets[target.record_users], sources[source.record_users]])


def _separate_items(target: Interactions, source: Interactions) -> np.ndarray:
    ids = [str(name) for name in target.item_ids.tolist()]
    clash = next((name for name in ids if name.startswith(SOURCE_PREFIX)), None)
    if clash is not None:
        raise DataError(
            f"item {clash!r} of the target domain begins like those of the source domain "
            f"({SOURCE_PREFIX!r}); rename it"
        )
    return np.array([*ids, *(f"{SOURCE_PREFIX}{name}" for name in source.item_ids)], dtype=object)
