"""Scores of blocks of cases, checked, and where they rank the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.data import Histories, Holdout
from pdrec_fast.data.catalogue import Catalogue
from pdrec_fast.data.histories import check_catalogue
from pdrec_fast.devices import off_cpu
from pdrec_fast.errors import NonFiniteScoresError
from pdrec_fast.evaluation.metrics import Ranks, rank_counts, rank_counts_of_sums
from pdrec_fast.evaluation.tiles import CASES_PER_TILE, rank_in_tiles, ranks_in_tiles
from pdrec_fast.evaluation.vectors import VectorScorer
from pdrec_fast.ops.selection.project import rows_per_block
from pdrec_fast.profiling import span
from pdrec_fast.ragged import row_indices

_CASES_PER_BLOCK = 1024  # so that an encoder's own tensors stay small too
_CASES_PER_GPU_BLOCK = 8192


class Scorer(Protocol):
    """Anything that scores the next item of a history; higher is better.

    A ``DiffRec``, a ``PDRec``, or a recommender of your own: it can be evaluated, and
    ``Preferences`` inferred from it. One whose scores are a table of users by items is::

        class Table:
            def scores(self, histories, items=None):
                rows = table[torch.from_numpy(histories.users)]
                return rows if items is None else rows.gather(1, items)

    An attribute ``trained_on``, the fingerprint of the training interactions, is compared with
    those that preferences are inferred for. An attribute ``item_scores``, float [N] in NumPy, says
    that these are the scores of every history, and spares ``full`` their comparison one by one. A
    method ``prepared()`` gives a scorer of the same scores for many blocks of histories, asked for
    before each run over them: it may keep what all blocks share.
    """

    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        """Score the corpus, or the given items, for B histories.

        Args:
            histories: B histories.
            items: int64 [B, C] item indices on the CPU, or None for all N items.

        Returns:
            float [B, C], or [B, N] in the order of the item indices, on any device; never NaN.
        """
        ...


def prepared(scorer: Scorer) -> Scorer:
    """``scorer``, or what it prepares, for scoring the corpus for many blocks of histories."""
    prepare: Callable[[], Scorer] | None = getattr(scorer, "prepared", None)
    return prepare() if callable(prepare) else scorer


@torch.no_grad()
def checked_scores(
    scorer: Scorer, histories: Histories, items: torch.Tensor | None = None
) -> torch.Tensor:
    """``scorer.scores(histories, items)``, refused when it is no tensor of the promised shape.

    Raises:
        TypeError: the scorer has no ``scores``, or they are no tensor.
        ValueError: they have another shape.
    """
    name = type(scorer).__name__
    if not callable(getattr(scorer, "scores", None)):
        raise TypeError(f"{name} cannot score: give it a method scores(histories, items=None)")
    with span("scores"):
        scores = scorer.scores(histories) if items is None else scorer.scores(histories, items)
    if not isinstance(scores, torch.Tensor):
        raise TypeError(
            f"{name}.scores returned a {type(scores).__name__}, not a torch.Tensor; for an array "
            "return torch.from_numpy(...)"
        )
    wanted = (len(histories), histories.n_items) if items is None else tuple(items.shape)
    if tuple(scores.shape) != wanted:
        raise ValueError(
            f"{name}.scores returned shape {tuple(scores.shape)}, not {wanted}: was it fitted on "
            "other data?"
        )
    return scores


@contextmanager
def counted_from(start: int) -> Iterator[None]:
    """Around a block of cases that begins at ``start``: a NonFiniteScoresError has the row of its
    case among all."""
    try:
        yield
    except NonFiniteScoresError as error:
        if error.row is not None:
            error.row += start
        raise


def rank_among(
    scorer: Scorer,
    holdout: Holdout,
    negatives: npt.NDArray[np.int32],
    *,
    block_size: int | None = None,
) -> Ranks:
    """Rank each target among its own row of ``negatives`` [n, C]; memory block_size x C."""
    parts = []
    for block in case_blocks(scorer, len(holdout), block_size, negatives.shape[1] + 1):
        items = np.column_stack([holdout.targets[block], negatives[block]])
        scores = checked_scores(
            scorer, holdout.histories[block], torch.from_numpy(items.astype(np.int64))
        )
        with counted_from(block.start):
            parts.append(rank_counts(scores[:, 0], scores[:, 1:]))
    return Ranks.concatenate(parts)


def rank_in_corpus(
    scorer: Scorer,
    holdout: Holdout,
    candidates: npt.NDArray[np.bool_] | None = None,
    *,
    block_size: int | None = None,
) -> Ranks:
    """Rank each target in the corpus without its history's items; memory block_size x items.

    The target itself is never filtered, even where the history holds it.

    Args:
        candidates: bool [items], those to rank among; None for all.
    """
    if (item_scores := getattr(scorer, "item_scores", None)) is not None:
        catalogue: Catalogue | None = getattr(scorer, "catalogue", None)
        check_catalogue(holdout.histories, len(item_scores), catalogue)
        return _rank_alike(item_scores, holdout, candidates)
    scorer, n_items = prepared(scorer), holdout.histories.n_items
    if candidates is None and ranks_in_tiles(scorer, n_items):
        return _rank_in_tiles(scorer, holdout, block_size or CASES_PER_TILE)
    parts = []
    for block in case_blocks(scorer, len(holdout), block_size, n_items):
        histories = holdout.histories[block]
        cases = CorpusCases(histories, holdout.targets[block], candidates)
        scores = checked_scores(scorer, histories)
        with counted_from(block.start):
            parts.append(cases.ranks(scores))
        del scores  # or the next block would take fresh memory beside it
    return Ranks.concatenate(parts)


def _rank_in_tiles(scorer: VectorScorer, holdout: Holdout, block_size: int) -> Ranks:
    """``rank_in_corpus`` by products, whose scores are never stored."""
    table, offsets = scorer.item_vectors
    parts = []
    for block in _blocks(len(holdout), block_size):
        histories, targets = holdout.histories[block], holdout.targets[block]
        excluded = excluded_pairs(histories, targets, None)
        with span("user vectors"):
            vectors = scorer.user_vectors(histories)
        items = torch.from_numpy(targets.astype(np.int64))
        with counted_from(block.start):
            parts.append(rank_in_tiles(table, offsets, vectors, items, excluded))
    return Ranks.concatenate(parts)


class CorpusCases:
    """A block of cases whose targets are ranked in the corpus, by any number of scores.

    Args:
        histories: B of them, whose items are no candidates.
        targets: int32 [B]; a target is a candidate even where its history holds it.
        candidates: bool [items], those to rank among; None for all.
    """

    def __init__(
        self,
        histories: Histories,
        targets: npt.NDArray[np.int32],
        candidates: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self._targets = torch.from_numpy(targets.astype(np.int64))
        self._excluded = excluded_pairs(histories, targets, candidates)
        self._kept = None
        if candidates is not None:
            self._kept = torch.from_numpy(np.flatnonzero(candidates))

    def ranks(self, scores: torch.Tensor) -> Ranks:
        """The targets' ranks by scores float [B, items] on any device."""
        target_scores = scores.gather(1, self._targets.to(scores.device)[:, None])[:, 0]
        if self._kept is not None:
            scores = scores.index_select(1, self._kept.to(scores.device))
        rows, columns = self._excluded.to(scores.device)
        return rank_counts(target_scores, scores, (rows, columns))

    def ranks_of_sums(
        self, logits: torch.Tensor, scores: torch.Tensor, weights: torch.Tensor
    ) -> list[Ranks]:
        """The targets' ranks by ``logits + w * scores``, float [B, items] each, for every weight w
        of ``weights`` [W]."""
        at = self._targets.to(logits.device)[:, None]
        targets = torch.stack([each.gather(1, at)[:, 0] for each in (logits, scores)])
        if self._kept is not None:
            kept = self._kept.to(logits.device)
            logits, scores = logits.index_select(1, kept), scores.index_select(1, kept)
        rows, columns = self._excluded.to(logits.device)
        return rank_counts_of_sums(targets, logits, scores, weights, (rows, columns))


def _rank_alike(
    item_scores: npt.NDArray[np.float64],
    holdout: Holdout,
    candidates: npt.NDArray[np.bool_] | None,
) -> Ranks:
    """``rank_in_corpus`` where every history has the same scores [items]: by one sort of them."""
    if len(holdout) == 0:
        raise ValueError("the holdout has no cases to rank")
    if np.isnan(item_scores).any():
        raise NonFiniteScoresError("item_scores are NaN", 0)  # and so are those of every case
    kept = item_scores if candidates is None else item_scores[candidates]
    ordered = np.sort(kept)
    parts = []
    for start in range(0, len(holdout), _CASES_PER_GPU_BLOCK):
        block = slice(start, start + _CASES_PER_GPU_BLOCK)
        targets = holdout.targets[block]
        rows, columns = excluded_pairs(holdout.histories[block], targets, candidates).numpy()
        wanted, theirs = item_scores[targets], kept[columns]
        above = len(ordered) - np.searchsorted(ordered, wanted, side="right")
        level = len(ordered) - np.searchsorted(ordered, wanted, side="left") - above
        n_cases = len(targets)
        parts.append(
            Ranks(
                above - np.bincount(rows[theirs > wanted[rows]], minlength=n_cases),
                level - np.bincount(rows[theirs == wanted[rows]], minlength=n_cases),
                len(ordered) - np.bincount(rows, minlength=n_cases),
            )
        )
    return Ranks.concatenate(parts)


def case_blocks(
    scorer: Scorer, n_cases: int, block_size: int | None, n_candidates: int
) -> Iterator[slice]:
    """The cases, as many at a time as ``Evaluator`` says of its block size."""
    if block_size is None:
        on_gpu = off_cpu(scorer)
        most = _CASES_PER_GPU_BLOCK if on_gpu else _CASES_PER_BLOCK
        block_size = min(rows_per_block(n_candidates, on_gpu=on_gpu), most)
    return _blocks(n_cases, block_size)


def _blocks(n_cases: int, block_size: int) -> Iterator[slice]:
    if n_cases == 0:
        raise ValueError("the holdout has no cases to rank")
    for start in range(0, n_cases, block_size):
        yield slice(start, min(start + block_size, n_cases))


def excluded_pairs(
    histories: Histories,
    targets: npt.NDArray[np.int32],
    candidates: npt.NDArray[np.bool_] | None,
) -> torch.Tensor:
    """int64 [2, n]: rows, and columns of the candidates' scores, of every history's items and
    target, each pair once."""
    indptr, items, _ = histories.packed()
    rows = np.concatenate([row_indices(indptr), np.arange(len(histories))])
    keys = np.unique(rows * histories.n_items + np.concatenate([items, targets]))
    rows, columns = np.divmod(keys, histories.n_items)
    if candidates is not None:
        inside = candidates[columns]
        rows, columns = rows[inside], (np.cumsum(candidates) - 1)[columns[inside]]
    return torch.from_numpy(np.stack([rows, columns]))
