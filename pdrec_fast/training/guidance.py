"""PDRec's weights, positives and negatives for a training loop of one's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.data import Interactions
from pdrec_fast.errors import DataError
from pdrec_fast.preferences import Preferences
from pdrec_fast.training.batches import TrainingBatches
from pdrec_fast.training.config import PDRecConfig

Indices = npt.NDArray[np.integer] | torch.Tensor | list[int] | list[list[int]]


class Guidance:
    """What PDRec's modules say of the positives in a batch, whatever model and loop use it.

    A positive is a user with the item that comes next. Users and items are indices, of raw ids
    ``train.user_index`` and ``train.item_index`` give them. What is returned does not depend on how
    positives are put into batches, lies on the device of ``items`` (or ``users``), and is what
    ``PDRec`` trains with for the same configuration. ``Objective`` has the losses it is meant for.

    Args:
        train: the training interactions.
        preferences: inferred on them; None with ``modules=()``.
        config: all settings; only ``modules``, those of HBR, the numbers of negatives and ``seed``
            count. Keyword arguments override single ones.
        max_length: how many of a user's latest next items are trained on, which HBR scales its
            weights by; None for all.

    Raises:
        ValueError: preferences are missing or of other interactions.
        DataError: no user has two records, or one has interacted with every item.
    """

    def __init__(
        self,
        train: Interactions,
        preferences: Preferences | None = None,
        config: PDRecConfig | None = None,
        *,
        max_length: int | None = None,
        **settings: Any,
    ) -> None:
        self.config = replace(config or PDRecConfig(), **settings)
        if max_length is None:
            max_length = int(np.diff(train.indptr).max(initial=1))
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        check_preferences(self.config, train, preferences)
        self._train = train
        self._batches = TrainingBatches(train, preferences, self.config, max_length)
        tokens = self._batches.tokens
        keys = tokens.token_users * train.n_items + tokens.targets
        self._tokens = np.argsort(keys, kind="stable")
        self._keys = keys[self._tokens]
        self._drawn: tuple[int, np.ndarray] = (-1, np.empty(0))  # an epoch and its negatives

    def weights(self, users: Indices, items: Indices) -> torch.Tensor:
        """HBR's weights (eq. 2); 1 without the module.

        Args:
            users: [B].
            items: [B], or [B, L] for sequences, -1 where there is none. Of an item that a user came
                back to, the latest record counts.

        Returns:
            float32 [B] or [B, L]; 0 where there is no item.

        Raises:
            DataError: an item is not among what its user is trained on.
        """
        tokens, present = self._find(users, items)
        weights = np.zeros(present.shape, dtype=np.float32)
        weights[present] = 1 if self._batches.weights is None else self._batches.weights[tokens]
        return _beside(items, weights)

    def negatives(self, users: Indices, items: Indices, epoch: int) -> torch.Tensor:
        """Negatives for every positive: first the random ones, then (NNS, eq. 3) the safe ones.

        Args:
            users, items: see ``weights``.
            epoch: from 0; others are drawn for each. Those of one epoch are drawn together and
                kept until another is asked for.

        Returns:
            int64 [B, k] or [B, L, k], k = ``random_negatives`` + ``safe_negatives``; 0 where there
            is no item.
        """
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        tokens, present = self._find(users, items)
        if self._drawn[0] != epoch:
            self._drawn = epoch, self._batches.negatives(epoch)
        drawn = self._drawn[1]
        negatives = np.zeros((*present.shape, drawn.shape[1]), dtype=np.int64)
        negatives[present] = drawn[tokens]
        return _beside(items, negatives)

    def candidates(self, users: Indices) -> torch.Tensor:
        """DPA's candidates, best first, of which ``Objective.distillation`` chooses: int64 [B, m],
        -1 where a user has fewer.

        Raises:
            ValueError: ``dpa`` is not among the modules.
        """
        if self._batches.of_dpa is None:
            raise ValueError(f"modules {self.config.modules} have no 'dpa', so no candidates")
        return _beside(users, self._batches.of_dpa.top_items[self._users(users)].astype(np.int64))

    def _find(self, users: Indices, items: Indices) -> tuple[np.ndarray, np.ndarray]:
        """The token of every present item, and which are present (bool, of the items' shape)."""
        rows, wanted = self._users(users), _on_host(items)
        if wanted.ndim not in (1, 2) or wanted.shape[:1] != rows.shape:
            raise ValueError(
                f"items must be [B] or [B, L] for the B = {len(rows)} users, got shape "
                f"{list(wanted.shape)}"
            )
        present = wanted >= 0
        rows = np.broadcast_to(rows.reshape(-1, *[1] * (wanted.ndim - 1)), wanted.shape)[present]
        wanted = wanted[present]
        if len(wanted) and wanted.max() >= self._train.n_items:
            raise ValueError(f"items must lie below {self._train.n_items}, got {wanted.max()}")
        keys = rows * self._train.n_items + wanted
        at = np.searchsorted(self._keys, keys, side="right") - 1
        unknown = self._keys[at] != keys  # at -1 stands the largest key, which is no smaller one
        if unknown.any():
            first = unknown.argmax()
            raise DataError(
                f"item {self._train.item_ids[wanted[first]]} is none that user "
                f"{self._train.user_ids[rows[first]]} is trained on: next items are the latest "
                f"{self._batches.max_length} of a user's training records, without the first one"
            )
        return self._tokens[at], present

    def _users(self, users: Indices) -> np.ndarray:
        rows = _on_host(users)
        n_users = self._train.n_users
        if rows.ndim != 1 or (len(rows) and not 0 <= rows.min() <= rows.max() < n_users):
            raise ValueError(
                f"users must be [B] indices in 0 .. {n_users - 1}, got shape {list(rows.shape)}"
                + (f" from {rows.min()} to {rows.max()}" if rows.size else "")
            )
        return rows


def check_preferences(
    config: PDRecConfig, train: Interactions, preferences: Preferences | None
) -> None:
    """Raise a ValueError where the modules of ``config`` cannot use the preferences."""
    if not config.modules:
        return
    if preferences is None:
        raise ValueError(
            f"modules {config.modules} need preferences: pass Preferences.infer(...), or "
            "modules=() for the plain encoder"
        )
    if preferences.data != train.fingerprint():
        raise ValueError(
            "preferences were inferred on other interactions than these training interactions"
        )
    top_m = preferences.top_items.shape[1]
    if "dpa" in config.modules and config.dpa_top_n > top_m:
        raise ValueError(
            f"dpa_top_n={config.dpa_top_n} is more than the preferences' top_m={top_m}"
        )


def _on_host(indices: Indices) -> np.ndarray:
    array = np.asarray(indices.cpu() if isinstance(indices, torch.Tensor) else indices)
    if array.dtype.kind not in "iu" and array.size:
        raise ValueError(
            f"users and items are integer indices, got {array.dtype}; train.user_index and "
            "train.item_index turn raw ids into them"
        )
    return array.astype(np.int64)


def _beside(indices: Indices, values: np.ndarray) -> torch.Tensor:
    result = torch.from_numpy(values)
    return result.to(indices.device) if isinstance(indices, torch.Tensor) else result
