"""A fitted scorer's preferences of each user, in a form that training can use.

Nothing of size users x items is kept: per user the scores of the observed items (HBR), the top
unobserved ones (DPA), where the pool of safe negatives begins, and a table of draws from it (NNS).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from pdrec_fast.buffers import Buffers
from pdrec_fast.checks import check_whole
from pdrec_fast.data import Interactions
from pdrec_fast.deprecation import renamed_keywords
from pdrec_fast.errors import CheckpointError, DataError, NonFiniteScoresError
from pdrec_fast.evaluation import Scorer, VectorScorer, prepared, uses_vectors
from pdrec_fast.fitting.bundle import digest_of, making, read_bundle, write_bundle
from pdrec_fast.isolation import own_settings
from pdrec_fast.part_jobs import check_rank
from pdrec_fast.preferences.inference import (
    PreferenceRequest,
    infer_block,
    users_per_block,
    with_room,
)
from pdrec_fast.preferences.joined_rows import JoinedRows
from pdrec_fast.preferences.parts import holds_parts, read_parts, write_parts
from pdrec_fast.preferences.reweighting import HBRSettings, hbr_weights
from pdrec_fast.profiling import unit
from pdrec_fast.ragged import indptr_of, ranges
from pdrec_fast.ranks import ALONE, Mesh

KIND = "preferences"
_ARRAYS = (
    "indptr",
    "observed_scores",
    "top_items",
    "threshold_scores",
    "threshold_items",
    "negatives",
)
_FORMER_ARRAY = "observed_ranks"  # of version 0.1.0, which counted in its fingerprints


@dataclass(frozen=True, eq=False, repr=False)
class Preferences:
    """Preferences of U users over N items, reduced to what HBR, DPA and NNS need.

    Attributes:
        n_items: N.
        data: fingerprint of the training interactions they were inferred from.
        omega_m: ω_m; the pool of safe negatives is ``K_u[floor(ω_m l_u) : l_u]`` (paper, eq. 3),
            K_u the user's l_u unobserved items by descending preference.
        indptr: int64 [U + 1], rows of the training records.
        observed_scores: float32 [n_records], preference for every training record's item.
        top_items: int32 [U, m], the m unobserved items preferred most; -1 where there are fewer.
        threshold_scores: float32 [U], threshold_items: int32 [U]: score and id of the pool's first
            item; -inf and -1 of a user who has interacted with every item.
        negatives: int32 [U, D], independent uniform draws from the pool, -1 of such a user.
            Training consumes them in order and begins again after D, so no epoch has to score the
            corpus.
    """

    n_items: int
    data: str
    omega_m: float
    indptr: np.ndarray
    observed_scores: np.ndarray
    top_items: np.ndarray
    threshold_scores: np.ndarray
    threshold_items: np.ndarray
    negatives: np.ndarray
    # Of preferences saved by version 0.1.0, whose checkpoints name it.
    _saved_fingerprint: str | None = field(default=None, init=False)

    def __repr__(self) -> str:
        return f"Preferences({self.n_users} users, {self.n_items} items, omega_m={self.omega_m})"

    @property
    def n_users(self) -> int:
        """U."""
        return len(self.indptr) - 1

    @classmethod
    @renamed_keywords(source="scorer")
    @own_settings()
    def infer(
        cls,
        scorer: Scorer | VectorScorer,
        train: Interactions,
        *,
        top_m: int = 50,
        omega_m: float = 0.5,
        n_draws: int = 1024,
        seed: int = 0,
        block_size: int | None = None,
        progress: bool = True,
        mesh: Mesh = ALONE,
    ) -> Preferences:
        """Score the corpus for every user, in blocks, and keep what is needed.

        Args:
            scorer: anything that scores the corpus (a ``DiffRec``, a ``PDRec``, one of your own,
                see ``Scorer``), fitted on ``train``. On a GPU, the scores of a ``VectorScorer`` (a
                ``DiffRec``) are never stored.
            top_m: m, soft positives of DPA per user.
            omega_m: ω_m in [0, 1), share of the unobserved items ranked too high for a negative.
            n_draws: D, negatives drawn per user.
            seed: of the draws.
            block_size: users scored at once; memory is ``block_size * N`` floats, or bits where
                scores are not stored. None takes as many as make 16 MiB (512 MiB on a GPU). Does
                not change the draws.
            mesh: processes that share the users, in whole blocks; every one must make the same
                call, and has the preferences of all. Larger ones are for ``infer_parts``.

        Raises:
            ValueError: an argument out of its range, or scores of a wrong shape.
            NonFiniteScoresError: scores are NaN; names the user.
            DataError: ``scorer`` was fitted on other interactions.
            TypeError: ``scorer`` has no ``scores``, or they are no tensor; or ``train`` is a whole
                split; or a number is not whole.
        """
        inference = _Inference(scorer, train, top_m, omega_m, n_draws, seed, block_size)
        own = mesh.all.share(train.n_users, inference.block_size)
        arrays = inference.arrays(own, progress and mesh.is_first)
        if mesh.all.size > 1:
            for name in _ARRAYS[1:]:
                parts = mesh.all.gathered(torch.from_numpy(arrays[name]))
                arrays[name] = torch.cat(parts).numpy()
            arrays["indptr"] = train.indptr
        return cls(train.n_items, train.fingerprint(), omega_m, **arrays)

    @classmethod
    @own_settings()
    def infer_parts(
        cls,
        scorer: Scorer | VectorScorer,
        train: Interactions,
        out: str | Path,
        *,
        top_m: int = 50,
        omega_m: float = 0.5,
        n_draws: int = 1024,
        seed: int = 0,
        block_size: int | None = None,
        part_size: int = 1 << 16,
        rank: int | None = None,
        world: int | None = None,
        progress: bool = True,
    ) -> bool:
        """``infer`` into a folder of parts, which ``load`` and ``open`` read, to the same bits.

        Parts that are there are skipped, so that a job that was stopped goes on when the same call
        is made again. Several processes that make it share the parts (``docs/workers.md``). Memory
        holds one part, beside what the scorer and the data take.

        Args:
            scorer, train, top_m, omega_m, n_draws, seed, block_size: see ``infer``. A scorer
                without ``contents()`` is known by its class alone: never let two of them share
                ``out``.
            out: the folder.
            part_size: users of a part, rounded up to whole blocks.
            rank, world: do only the parts of this one of ``world`` processes, from 0 on, and do not
                wait for the others; None: any part that nobody has, until all are there.
            progress: show a bar of the parts.

        Returns:
            Whether all parts are there; False where other ranks have yet to do theirs.

        Raises:
            CheckpointError: ``out`` holds parts of other preferences, or something else.
            WriteError: no space, no permission; parts that are there are kept.
            DataError, ValueError, TypeError: see ``infer``.
        """
        check_rank(rank, world)
        check_whole(part_size=part_size)
        if part_size < 1:
            raise ValueError(f"part_size must be at least 1, got {part_size}")
        inference = _Inference(scorer, train, top_m, omega_m, n_draws, seed, block_size)
        contents = getattr(scorer, "contents", None)
        description = {
            "scorer": type(scorer).__name__ if contents is None else digest_of(contents()),
            "n_items": train.n_items,
            "n_users": train.n_users,
            "data": train.fingerprint(),
            "top_m": top_m,
            "omega_m": omega_m,
            "n_draws": n_draws,
            "seed": seed,
            "block_size": inference.block_size,
            # Blocks as in one piece: a product's last bits may depend on its number of rows.
            "part_size": -(-part_size // inference.block_size) * inference.block_size,
        }
        return write_parts(Path(out), description, inference.arrays, rank, world, progress)

    def hbr_weights(
        self, train: Interactions, config: HBRSettings, max_length: int | None = None
    ) -> np.ndarray:
        """HBR's weights of the positives (eq. 2), see ``reweighting.hbr_weights``.

        Args:
            train: the interactions that the preferences were inferred from.
            config: ``hbr_rank_weight`` ω_r, ``hbr_clip`` c_w and ``hbr_rescale`` ω_f.
            max_length: how many of a user's latest records are positives; None for all but the
                first, which follows nothing.

        Returns:
            float32 [n_records], one for every training record; 0 where it is no positive.

        Raises:
            DataError: ``train`` are other interactions.
            NonFiniteScoresError: a preference for one of the positives is NaN or infinite.
        """
        check_inferred_on(self, train)
        lengths = np.maximum(np.diff(train.indptr) - 1, 0)
        if max_length is not None:
            lengths = np.minimum(lengths, max_length)
        positives = ranges(train.indptr[1:] - lengths, lengths)
        scores = self.observed_scores[positives]
        _check_finite(scores, positives, train)
        weights = np.zeros(train.n_records, dtype=np.float32)
        weights[positives] = hbr_weights(
            indptr_of(lengths),
            scores,
            train.items[positives],
            rank_weight=config.hbr_rank_weight,
            clip=config.hbr_clip,
            rescale=config.hbr_rescale,
        )
        return weights

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any value."""
        if self._saved_fingerprint is not None:
            return self._saved_fingerprint
        return _digest(self._meta, (getattr(self, name) for name in _ARRAYS))

    def save(self, path: str | Path) -> None:
        """Write to the directory ``path`` (see ``fitting.bundle``).

        Raises:
            CheckpointError: something other than a bundle lies at ``path``.
        """
        meta = self._meta
        if self._saved_fingerprint is not None:
            meta["fingerprint"] = self._saved_fingerprint
        arrays = {name: torch.from_numpy(np.array(getattr(self, name))) for name in _ARRAYS}
        write_bundle(path, KIND, meta, {"arrays": arrays})

    @classmethod
    def load(cls, path: str | Path) -> Preferences:
        """Read what ``save`` or ``infer_parts`` wrote, and verify its checksums.

        Raises:
            CheckpointError: missing, damaged, not finished, or no preferences.
        """
        if holds_parts(Path(path)):
            return cls._of_parts(path, verify=True, mapped=False)
        meta, files = read_bundle(path, KIND)
        with making(path):
            saved = meta.pop("fingerprint", None)
            arrays: dict[str, Any] = {name: t.numpy() for name, t in files["arrays"].items()}
            if _FORMER_ARRAY in arrays:
                names = *_ARRAYS[:2], _FORMER_ARRAY, *_ARRAYS[2:]
                saved = _digest(meta, (arrays[name] for name in names))
            loaded = cls(**meta, **{name: arrays[name] for name in _ARRAYS})
        object.__setattr__(loaded, "_saved_fingerprint", saved)
        return loaded

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> Preferences:
        """What ``infer_parts`` wrote, for reading rows of it: nothing but ``indptr`` is loaded.

        The other arrays are ``JoinedRows`` over the files, which are mapped into memory. Of what
        ``save`` wrote this is ``load``.

        Args:
            verify: read everything once, and compare checksums.

        Raises:
            CheckpointError: missing, not finished, or no preferences; damaged, where that is
                looked for.
        """
        if holds_parts(Path(path)):
            return cls._of_parts(path, verify=verify, mapped=True)
        return cls.load(path)

    @classmethod
    def _of_parts(cls, path: str | Path, *, verify: bool, mapped: bool) -> Preferences:
        with making(path):
            about, parts = read_parts(Path(path), verify=verify)
            lengths = np.concatenate([np.diff(part["indptr"]) for part in parts])
            if len(lengths) != about["n_users"]:
                raise CheckpointError(
                    f"{path}: parts of {len(lengths)} users, not of {about['n_users']} as its "
                    "description says; delete the folder, and give the command again"
                )
            arrays: dict[str, Any] = {"indptr": indptr_of(lengths)}
            for name in _ARRAYS[1:]:
                rows = JoinedRows([part[name] for part in parts])
                arrays[name] = rows if mapped else np.asarray(rows)
            return cls(about["n_items"], about["data"], about["omega_m"], **arrays)

    @property
    def _meta(self) -> dict[str, Any]:
        return {"n_items": self.n_items, "data": self.data, "omega_m": self.omega_m}


class _Inference:
    """What ``Preferences.infer`` was asked for, checked, to be done for some users at a time."""

    def __init__(
        self,
        scorer: Scorer | VectorScorer,
        train: Interactions,
        top_m: int,
        omega_m: float,
        n_draws: int,
        seed: int,
        block_size: int | None,
    ) -> None:
        if not isinstance(train, Interactions):
            raise TypeError(
                f"preferences are inferred on interactions, got a {type(train).__name__}; of a "
                "split, pass split.train"
            )
        if block_size is None:
            block_size = users_per_block(scorer, train.n_items)
        check_whole(top_m=top_m, n_draws=n_draws, seed=seed, block_size=block_size)
        _check_arguments(top_m, omega_m, n_draws, block_size)
        _check_scorer(scorer, train)
        n_unobserved = unobserved_counts(train)
        first_rank = np.floor(omega_m * n_unobserved).astype(np.int64)
        observed = with_room(train.unique_items(), n_unobserved)
        self._request = PreferenceRequest(
            observed, first_rank, n_unobserved == 0, top_m, n_draws, seed
        )
        if not uses_vectors(scorer):
            scorer = prepared(cast("Scorer", scorer))
        self._scorer, self._train, self.block_size = scorer, train, block_size

    def arrays(self, users: slice, progress: bool = False) -> dict[str, np.ndarray]:
        """The arrays of ``Preferences`` of these users; ``indptr`` begins at 0."""
        blocks, buffers = [], Buffers()
        starts = range(users.start, users.stop, self.block_size)
        for start in tqdm(starts, desc="preferences", unit="block", disable=not progress):
            block = slice(start, min(start + self.block_size, users.stop))
            n_users = block.stop - block.start
            counts = {"users": n_users, "items": n_users * self._train.n_items}
            with unit("preferences", **counts), buffers.lent():  # to the scores
                blocks.append(infer_block(self._scorer, self._train, block, self._request))
        if not blocks:  # of a process of many, where there are few users
            blocks = [infer_block(self._scorer, self._train, slice(0, 1), self._request)]
            blocks = [[array[:0] for array in block] for block in blocks]
        columns = [np.concatenate(column) for column in zip(*blocks, strict=True)]
        indptr = self._train.indptr[users.start : users.stop + 1]
        return dict(zip(_ARRAYS, (indptr - indptr[0], *columns), strict=True))


def check_inferred_on(preferences: Preferences, train: Interactions) -> None:
    """Raise a DataError where the preferences are of other interactions."""
    if preferences.data != train.fingerprint():
        raise DataError(
            "preferences were inferred on other interactions than these training interactions: "
            "infer them on the training part of the same data, read and split in the same way"
        )


def _check_finite(scores: np.ndarray, records: np.ndarray, train: Interactions) -> None:
    """Raises NonFiniteScoresError unless the preferences for these records are numbers."""
    finite = np.isfinite(scores)
    if not finite.all():
        at = int(finite.argmin())
        user = train.user_ids[train.record_users[records[at]]]
        item = train.item_ids[train.items[records[at]]]
        raise NonFiniteScoresError(
            f"preferences: that of user {str(user)!r} for item {str(item)!r} is {scores[at]}, "
            "which HBR cannot weigh: infer them from a scorer that gives finite scores to what a "
            "user has interacted with, or leave 'hbr' out of modules"
        )


def _digest(meta: dict[str, Any], arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256("{n_items} {data} {omega_m}".format(**meta).encode())
    for array in arrays:
        digest.update(repr((array.dtype.str, array.shape)).encode())
        for piece in getattr(array, "pieces", (array,)):
            digest.update(np.ascontiguousarray(piece).data)
    return digest.hexdigest()[:16]


def _check_arguments(top_m: int, omega_m: float, n_draws: int, block_size: int) -> None:
    if not 0 <= omega_m < 1:
        raise ValueError(f"omega_m must lie in [0, 1), got {omega_m}")
    if top_m < 1 or n_draws < 1 or block_size < 1:
        raise ValueError(
            f"top_m, n_draws and block_size must be at least 1, got {top_m=}, {n_draws=}, "
            f"{block_size=}"
        )


def _check_scorer(scorer: Scorer | VectorScorer, train: Interactions) -> None:
    trained_on = getattr(scorer, "trained_on", None)
    if trained_on not in (None, train.fingerprint()):
        raise DataError(
            f"this {type(scorer).__name__} was trained on other interactions than those given: "
            "its preferences could hold the answers of the test"
        )


def unobserved_counts(train: Interactions) -> np.ndarray:
    """Number of items each user has not interacted with, int64 [U]."""
    counts: np.ndarray = train.n_items - train.unique_items().lengths
    return counts
