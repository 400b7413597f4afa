"""Weights of a fitted model as the start of another training, over a catalogue that has changed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

logger = logging.getLogger("pdrec_fast")
Weights = Mapping[str, torch.Tensor]


def places_of(ids: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each id lies among others: int64, -1 where it does not.

    Ids are the same where they read the same: 17 and ``"17"`` are one, as a column of integers
    becomes text with the first id that is none.
    """
    place = {str(name): row for row, name in enumerate(among.tolist())}
    return np.array([place.get(str(name), -1) for name in ids.tolist()], dtype=np.int64)


def former_rows(item_ids: np.ndarray, former_ids: np.ndarray) -> np.ndarray:
    """Where each item lies in a former catalogue, see ``places_of``.

    Raises:
        ValueError: no item is in both.
    """
    rows = places_of(item_ids, former_ids)
    if not (rows >= 0).any():
        raise ValueError(
            f"warm_start: none of {len(item_ids)} items (such as {item_ids[0]!r}) is among the "
            f"{len(former_ids)} of the model to start from (such as {former_ids[0]!r}): read both "
            "data sets by the same item column"
        )
    return rows


def tell_dropped(rows: np.ndarray, n_former: int) -> None:
    """Count, in a warning, the items of a former catalogue that are not in the new one.

    Args:
        rows: see ``former_rows``.
    """
    n_gone = n_former - int((rows >= 0).sum())
    if n_gone:
        logger.warning(
            "warm start: %d of %d items are not in the new data; what was learned of them is left "
            "behind",
            n_gone,
            n_former,
        )


def warm_weights(
    fresh: Weights, former: Weights, rows: np.ndarray, of_items: Collection[str]
) -> dict[str, torch.Tensor]:
    """``former`` weights for a new catalogue: rows of known items are theirs, those of new items
    stay as they are in ``fresh``; every other tensor is taken as it is.

    Args:
        rows: see ``former_rows``.
        of_items: names of the tensors that have one row for every item.

    Raises:
        ValueError: the two belong to models of other shapes.
    """
    if fresh.keys() != former.keys():
        unlike = ", ".join(sorted(fresh.keys() ^ former.keys()))
        raise ValueError(
            f"warm_start: the model to start from is of another kind, {unlike} is in only one of "
            "the two; give the new one the same encoder and settings, and item features if the "
            "former one has them"
        )
    known = torch.from_numpy(np.flatnonzero(rows >= 0))
    there = torch.from_numpy(rows[rows >= 0])
    started = {}
    for name, tensor in fresh.items():
        own, theirs = tensor.detach(), former[name].detach().to(tensor.device)
        if name in of_items and len(own) == len(rows) and own.shape[1:] == theirs.shape[1:]:
            mixed = own.clone()
            mixed[known.to(own.device)] = theirs[there.to(own.device)].to(own.dtype)
            started[name] = mixed
        elif own.shape == theirs.shape:
            started[name] = theirs
        else:
            raise ValueError(
                f"warm_start: {name} is {list(theirs.shape)} in the model to start from and "
                f"{list(own.shape)} here; give this one the same settings. (Of an encoder of your "
                "own: a tensor over items needs exactly one row for each, first dimension first.)"
            )
    return started


def rows_of_items(some: Weights, others: Weights) -> set[str]:
    """The names of tensors that grow with the number of items, in which the two differ."""
    return {name for name in some if name in others and some[name].shape != others[name].shape}


def weights_fingerprint(weights: Weights, settings: str = "") -> str:
    """16 hexadecimal digits that change with any weight, and with ``settings``."""
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        array: Any = tensor.detach().cpu().contiguous().numpy()
        digest.update(memoryview(array).cast("B"))
    return digest.hexdigest()[:16]
