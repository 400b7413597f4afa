"""What PDRec's modules say of every positive: weights, negatives and soft positives."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.data import Interactions
from pdrec_fast.data.splits import named_users
from pdrec_fast.errors import DataError
from pdrec_fast.preferences import Preferences
from pdrec_fast.preferences.preferences import check_inferred_on
from pdrec_fast.training.config import PDRecConfig
from pdrec_fast.training.negatives import (
    RandomNegatives,
    SharedNegativeSampler,
    safe_negatives,
    without_negatives,
)
from pdrec_fast.training.tokens import TrainingTokens

Indices = npt.NDArray[np.integer] | torch.Tensor | list[int] | list[list[int]]


class Guidance:
    """Weights (HBR), negatives (NNS) and soft positives (DPA) of the positives trained on.

    ``PDRec`` trains with it, and so can a model and a training loop of your own. A positive is a
    user with the item that comes next. Users and items are indices; ``train.user_index`` and
    ``train.item_index`` give those of raw ids. Results do not depend on how positives are put into
    batches, and lie on the device of ``items`` (or ``users``). ``Objective`` has the losses that
    take them.

    Args:
        train: the training interactions.
        preferences: inferred on them; None with ``modules=()``.
        config: all settings; only ``modules``, those of HBR, the numbers of negatives, ``windows``
            and ``seed`` count. Keyword arguments override single ones.
        max_length: the longest sequence: how many of a user's latest next items are trained on,
            unless ``windows`` has the earlier ones too. HBR scales its weights by their number.
            None for all.

    Raises:
        ValueError: preferences are missing or of other interactions.
        DataError: no user has two records, or all who have are left out.

    Users who have interacted with every item are left out, with a warning, where negatives are
    drawn for each user.
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
        self.max_length, self._train = max_length, train
        windows = self.config.windows
        left_out = without_negatives(train, self.config)
        self.tokens = TrainingTokens(train, max_length, windows=windows, left_out=left_out)
        if left_out.any():
            warnings.warn(
                f"not trained on: {named_users(train.user_ids[left_out].tolist())}, who have "
                "interacted with every item, so that there is no negative for them",
                stacklevel=2,
            )
        self._random = RandomNegatives(train) if self.config.own_negatives else None
        self.shared_negatives: SharedNegativeSampler | None = None
        if self.config.loss == "shared_softmax":
            self.shared_negatives = SharedNegativeSampler(
                train,
                self.config.shared_negatives,
                self.config.negative_sampling,
                self.config.seed,
                cold_items=self.config.rank_cold_items,
            )
        self.token_weights: np.ndarray | None = None  # float32 [n_tokens]
        self.dpa_preferences = self.nns_preferences = None
        if preferences is not None:
            modules = self.config.modules
            self.dpa_preferences = preferences if "dpa" in modules else None
            self.nns_preferences = preferences if "nns" in modules else None
            if "hbr" in modules:
                trained_on = None if windows else max_length
                weights = preferences.hbr_weights(train, self.config, trained_on)
                self.token_weights = weights[self.tokens.target_records]
        self._drawn: tuple[int, np.ndarray] = (-1, np.empty(0))  # an epoch and its negatives

    @property
    def n_users(self) -> int:
        """Users of the training interactions, those without a next item among them."""
        return self._train.n_users

    @property
    def n_negatives(self) -> int:
        """k, negatives of every positive."""
        safe = 0 if self.nns_preferences is None else self.config.safe_negatives
        return self._n_random + safe

    @property
    def _n_random(self) -> int:
        return self.config.random_negatives if self.config.own_negatives else 0

    def token_negatives(self, epoch: int) -> npt.NDArray[np.int64]:
        """The negatives of all ``tokens`` in an epoch, see ``negatives``: int64 [n_tokens, k]."""
        config, keys = self.config, {"seed": self.config.seed, "epoch": epoch}
        drawn = np.zeros((self.tokens.n_tokens, 0), dtype=np.int64)
        if self._random is not None:
            drawn = self._random.draw(self.tokens.token_users, config.random_negatives, **keys)
        if self.nns_preferences is None:
            return drawn
        safe = safe_negatives(self.nns_preferences, self.tokens, config.safe_negatives, **keys)
        return np.concatenate([drawn, safe], axis=1)

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
        weights[present] = 1 if self.token_weights is None else self.token_weights[tokens]
        return _beside(items, weights)

    def negatives(self, users: Indices, items: Indices, epoch: int) -> torch.Tensor:
        """Negatives for every positive: first the random ones, then (NNS, eq. 3) the safe ones.

        Args:
            users, items: see ``weights``.
            epoch: from 0; others are drawn for each. Those of one epoch are drawn together and
                kept until another is asked for.

        Returns:
            int64 [B, k] or [B, L, k], k = ``random_negatives`` + ``safe_negatives``; 0 where there
            is no item. A loss whose negatives are those of a step has no random ones here.
        """
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        tokens, present = self._find(users, items)
        kept, drawn = self._drawn  # read once: another thread may draw for another epoch
        if kept != epoch:
            drawn = self.token_negatives(epoch)
            self._drawn = epoch, drawn
        negatives = np.zeros((*present.shape, drawn.shape[1]), dtype=np.int64)
        negatives[present] = drawn[tokens]
        return _beside(items, negatives)

    def soft_positives(self, users: Indices) -> torch.Tensor:
        """The unobserved items that each user is taken to prefer (DPA), best first.

        ``Objective.distillation`` chooses among them (eq. 5).

        Args:
            users: [B].

        Returns:
            int64 [B, m], -1 where a user has fewer.

        Raises:
            ValueError: ``dpa`` is not among the modules.
        """
        if self.dpa_preferences is None:
            raise ValueError(f"modules {self.config.modules} have no 'dpa', so no soft positives")
        return _beside(users, self.dpa_preferences.top_items[self._users(users)].astype(np.int64))

    def candidates(self, users: Indices) -> torch.Tensor:
        """The former name of ``soft_positives``."""
        warnings.warn(
            "Guidance.candidates(users) is called soft_positives(users) now",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.soft_positives(users)

    @cached_property
    def _sorted_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys (user, item) of all tokens, int64 [n_tokens], ascending, and the tokens."""
        keys = self.tokens.token_users * self._train.n_items + self.tokens.targets
        tokens = np.argsort(keys, kind="stable")
        return keys[tokens], tokens

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
        known, tokens = self._sorted_tokens
        at = np.searchsorted(known, keys, side="right") - 1
        unknown = known[at] != keys  # at -1 stands the largest key, which is no smaller one
        if unknown.any():
            first = unknown.argmax()
            raise DataError(
                f"item {self._train.item_ids[wanted[first]]} is none that user "
                f"{self._train.user_ids[rows[first]]} is trained on: next items are the latest "
                f"{self.max_length} of a user's training records, or with windows all of them, "
                "without the first one"
            )
        return tokens[at], present

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
    if not config.training_modules:
        return
    if preferences is None:
        raise ValueError(
            f"modules {config.training_modules} need preferences: pass Preferences.infer(...), or "
            "modules=() for the plain encoder"
        )
    check_inferred_on(preferences, train)
    top_m = preferences.top_items.shape[1]
    if "dpa" in config.modules and config.dpa_top_n > top_m:
        raise ValueError(
            f"dpa_top_n={config.dpa_top_n} is more than the preferences' top_m={top_m}: infer them "
            "with a larger top_m, or set a smaller dpa_top_n"
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
