"""What a fitted source of preferences says of each user, in a form that training can use.

Nothing of size users x items is kept: per user the scores and ranks of the observed items, the top
unobserved ones (DPA), where the pool of safe negatives begins, and a table of draws from it (NNS).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from pdrec_fast.data import Interactions
from pdrec_fast.errors import DataError
from pdrec_fast.evaluation import Scorer
from pdrec_fast.fitting.bundle import read_bundle, write_bundle
from pdrec_fast.preferences.inference import (
    VectorSource,
    Wanted,
    infer_block,
    users_per_block,
)
from pdrec_fast.preferences.reweighting import ranks_within
from pdrec_fast.profiling import unit

KIND = "preferences"
_ARRAYS = (
    "indptr",
    "observed_scores",
    "observed_ranks",
    "top_items",
    "threshold_scores",
    "threshold_items",
    "negatives",
)


@dataclass(frozen=True, eq=False)
class Preferences:
    """Preferences of U users over N items, reduced to what HBR, DPA and NNS need.

    Attributes:
        n_items: N.
        data: fingerprint of the training interactions they were inferred from.
        omega_m: ω_m; the pool of safe negatives is ``K_u[floor(ω_m l_u) : l_u]`` (paper, eq. 3),
            K_u the user's l_u unobserved items by descending preference.
        indptr: int64 [U + 1], rows of the training records.
        observed_scores: float32 [n_records], preference for every training record's item.
        observed_ranks: int32 [n_records], its rank within the user's records, 1 = highest.
        top_items: int32 [U, m], the m unobserved items preferred most; -1 where there are fewer.
        threshold_scores: float32 [U], threshold_items: int32 [U]: score and id of the pool's first
            item.
        negatives: int32 [U, D], independent uniform draws from the pool. Training consumes them in
            order and begins again after D, so no epoch has to score the corpus.
    """

    n_items: int
    data: str
    omega_m: float
    indptr: np.ndarray
    observed_scores: np.ndarray
    observed_ranks: np.ndarray
    top_items: np.ndarray
    threshold_scores: np.ndarray
    threshold_items: np.ndarray
    negatives: np.ndarray

    @property
    def n_users(self) -> int:
        return len(self.indptr) - 1

    @classmethod
    def infer(
        cls,
        source: Scorer | VectorSource,
        train: Interactions,
        *,
        top_m: int = 50,
        omega_m: float = 0.5,
        n_draws: int = 1024,
        seed: int = 0,
        block_size: int | None = None,
        progress: bool = True,
    ) -> Preferences:
        """Score the corpus for every user, in blocks, and keep what is needed.

        Args:
            source: anything that scores the corpus (a ``DiffRec``, a ``PDRec``, one of your own,
                see ``Scorer``), fitted on ``train``. On a GPU, the scores of a ``VectorSource`` (a
                ``DiffRec``) are never stored.
            top_m: m, candidates of DPA per user.
            omega_m: ω_m in [0, 1), share of the unobserved items ranked too high for a negative.
            n_draws: D, negatives drawn per user.
            seed: of the draws.
            block_size: users scored at once; memory is ``block_size * N`` floats, or bits where
                scores are not stored. None takes as many as make 16 MiB (512 MiB on a GPU). Does
                not change the draws.

        Raises:
            ValueError: an argument out of its range, or scores of a wrong shape or with NaN.
            TypeError: ``source`` has no ``scores``, or they are no tensor; or ``train`` is a whole
                split.
            DataError: a user has interacted with every item.
        """
        if not isinstance(train, Interactions):
            raise TypeError(
                f"preferences are inferred on interactions, got a {type(train).__name__}; of a "
                "split, pass split.train"
            )
        if block_size is None:
            block_size = users_per_block(source, train.n_items)
        _check_arguments(top_m, omega_m, n_draws, block_size)
        _check_source(source, train)
        observed = train.unique_items()
        first_rank = np.floor(omega_m * unobserved_counts(train, observed[0])).astype(np.int64)
        wanted = Wanted(observed, first_rank, top_m, n_draws, seed)
        blocks = []
        starts = range(0, train.n_users, block_size)
        for start in tqdm(starts, desc="preferences", unit="block", disable=not progress):
            users = slice(start, min(start + block_size, train.n_users))
            n_users = users.stop - users.start
            with unit("preferences", users=n_users, items=n_users * train.n_items):
                blocks.append(infer_block(source, train, users, wanted))
        columns = [np.concatenate(column) for column in zip(*blocks, strict=True)]
        observed_scores, top_items, threshold_scores, threshold_items, negatives = columns
        return cls(
            n_items=train.n_items,
            data=train.fingerprint(),
            omega_m=omega_m,
            indptr=train.indptr,
            observed_scores=observed_scores,
            observed_ranks=ranks_within(train.indptr, observed_scores, train.items),
            top_items=top_items,
            threshold_scores=threshold_scores,
            threshold_items=threshold_items,
            negatives=negatives,
        )

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any value."""
        digest = hashlib.sha256(f"{self.n_items} {self.data} {self.omega_m}".encode())
        for name in _ARRAYS:
            array = getattr(self, name)
            digest.update(repr((array.dtype.str, array.shape)).encode() + array.tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write to the directory ``path`` (see ``fitting.bundle``)."""
        meta = {"n_items": self.n_items, "data": self.data, "omega_m": self.omega_m}
        arrays = {name: torch.from_numpy(np.array(getattr(self, name))) for name in _ARRAYS}
        write_bundle(path, KIND, meta, {"arrays": arrays})

    @classmethod
    def load(cls, path: str | Path) -> Preferences:
        """Read what ``save`` wrote."""
        meta, files = read_bundle(path, KIND)
        arrays: dict[str, Any] = {name: files["arrays"][name].numpy() for name in _ARRAYS}
        return cls(**meta, **arrays)


def _check_arguments(top_m: int, omega_m: float, n_draws: int, block_size: int) -> None:
    if not 0 <= omega_m < 1:
        raise ValueError(f"omega_m must lie in [0, 1), got {omega_m}")
    if top_m < 1 or n_draws < 1 or block_size < 1:
        raise ValueError(
            f"top_m, n_draws and block_size must be at least 1, got {top_m=}, {n_draws=}, "
            f"{block_size=}"
        )


def _check_source(source: Scorer | VectorSource, train: Interactions) -> None:
    trained_on = getattr(source, "trained_on", None)
    if trained_on not in (None, train.fingerprint()):
        raise ValueError(
            f"this {type(source).__name__} was trained on other interactions than those given: "
            "its preferences could hold the answers of the test"
        )


def unobserved_counts(train: Interactions, indptr: np.ndarray) -> np.ndarray:
    """Number of items each user has not interacted with, int64 [U].

    Args:
        indptr: of ``train.unique_items()``.

    Raises:
        DataError: a user has interacted with every item.
    """
    unobserved = train.n_items - np.diff(indptr)
    if not unobserved.min(initial=1):
        raise DataError(
            f"user {train.user_ids[unobserved.argmin()]!r} has interacted with every item: "
            "there is nothing to draw a negative from; leave that user out"
        )
    return unobserved
