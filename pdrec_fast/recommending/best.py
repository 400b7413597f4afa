"""The best items of blocks of people, from a model's scores or within a GPU kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch

from pdrec_fast.buffers import Buffers
from pdrec_fast.checks import check_whole
from pdrec_fast.data import Histories, Interactions
from pdrec_fast.devices import off_cpu
from pdrec_fast.errors import NonFiniteScoresError
from pdrec_fast.evaluation import Scorer, VectorScorer, checked_scores, prepared, uses_vectors
from pdrec_fast.ops.candidates.item_logits import item_logits
from pdrec_fast.ops.selection.project import rows_per_block
from pdrec_fast.ops.selection.select_projected import select_projected
from pdrec_fast.ops.selection.select_unobserved import top_items
from pdrec_fast.ragged import Ragged, indptr_of, ranges
from pdrec_fast.recommending.filters import Filter
from pdrec_fast.recommending.queries import Queries
from pdrec_fast.recommending.recommendations import Recommendations


def best_items(
    scorer: Scorer,
    catalogue: Interactions,
    people: Queries,
    rules: Filter,
    k: int,
    popularity: np.ndarray | None,
    block_size: int | None,
) -> Recommendations:
    """The ``k`` best items that ``rules`` allow, for each of the ``people``.

    Args:
        popularity: float32 [N], what people of whom nothing is known get; None: no items.
    """
    ids = np.full((len(people), k), None, dtype=object)
    scores = np.full((len(people), k), -np.inf, dtype=np.float32)
    for block, best, found in blocks(scorer, people, rules, k, popularity, block_size):
        there = found > -np.inf
        scores[block] = found
        ids[block][there] = catalogue.item_ids[best[there]]
    fallback = np.zeros(len(people), bool) if popularity is None else ~people.known
    kind = catalogue.item_ids.dtype
    return Recommendations(people.names, ids, scores, fallback, kind)


def blocks(
    scorer: Scorer,
    people: Queries,
    rules: Filter,
    k: int,
    popularity: np.ndarray | None,
    block_size: int | None,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """(people, items int64 [B, k], scores float32 [B, k]) of one block after another; a score of
    -inf says that there is no item."""
    n_items = people.histories.n_items
    if block_size is None:
        block_size = rows_per_block(n_items, on_gpu=off_cpu(scorer))
    check_whole(block_size=block_size)
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    scorer, buffers = prepared(scorer), Buffers()
    for start in range(0, len(people), block_size):
        block = slice(start, min(start + block_size, len(people)))
        try:
            with buffers.lent():  # to the scores
                best, found = _best_of(scorer, people[block], rules, k, block, popularity)
        except NonFiniteScoresError as error:
            person = people.names[start + (error.row or 0)]
            raise NonFiniteScoresError.of_user(scorer, person) from None
        yield block, best.cpu().numpy(), found.cpu().numpy()


@torch.inference_mode()
def _best_of(
    scorer: Scorer | VectorScorer,
    some: Queries,
    rules: Filter,
    k: int,
    block: slice,
    popularity: np.ndarray | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(items, scores), [B, k] each, of one block."""
    if uses_vectors(scorer) and rules.allowed is None and some.known.all():
        left_out = rules.left_out(some.histories, block)
        if left_out.lengths.max(initial=0) < len(rules.never):  # everybody has some item left
            return _from_vectors(scorer, some, rules, left_out, k)
    return _from_scores(cast("Scorer", scorer), some, rules, k, block, popularity)


def _from_scores(
    scorer: Scorer,
    some: Queries,
    rules: Filter,
    k: int,
    block: slice,
    popularity: np.ndarray | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = checked_scores(scorer, some.histories).float()
    unknown = torch.from_numpy(np.flatnonzero(~some.known)).to(scores.device)
    if len(unknown):
        instead = scores.new_full((1,), -torch.inf)
        if popularity is not None:
            instead = torch.from_numpy(popularity)
        scores[unknown] = instead.to(scores.device)
    rules.mask(scores, some.histories, block)
    best = top_items(scores, k)
    return best, scores.gather(1, best)


def _from_vectors(
    scorer: VectorScorer, some: Queries, rules: Filter, left_out: Ragged, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    vectors = scorer.user_vectors(some.histories)
    table, offsets = scorer.item_vectors
    never = torch.from_numpy(rules.never).to(offsets.device)
    offsets = offsets.masked_fill(never, -torch.inf)
    n_people = len(some)
    found = select_projected(
        vectors,
        table,
        offsets,
        (left_out.indptr, left_out.values),
        k,
        np.zeros(n_people, dtype=np.int64),
        0,
        seed=0,
        users=np.arange(n_people),
    ).top_items.long()
    scores = item_logits(vectors, table, found, bias=offsets)  # -inf where there is none
    return found.clamp_min(0), scores


def pair_scores(
    scorer: Scorer, histories: Histories, rows: np.ndarray, items: np.ndarray
) -> np.ndarray:
    """float32 [P], what ``scorer`` gives to item ``items[p]`` after history ``rows[p]``.

    Args:
        rows: int64 [P], ascending.
        items: int64 [P].

    Raises:
        NonFiniteScoresError: a score is NaN.
    """
    counts = np.bincount(rows, minlength=len(histories))
    indptr = indptr_of(counts)
    found = np.empty(len(rows), dtype=np.float32)
    step = max(rows_per_block(max(int(counts.max(initial=1)), 1)) // 64, 1)
    scorer = prepared(scorer)
    for start in range(0, len(histories), step):
        stop = min(start + step, len(histories))
        pairs = slice(indptr[start], indptr[stop])
        width = int(counts[start:stop].max(initial=0))
        if width == 0:
            continue
        within = ranges(np.zeros(stop - start, dtype=np.int64), counts[start:stop])
        table = np.zeros((stop - start, width), dtype=np.int64)
        table[rows[pairs] - start, within] = items[pairs]
        block = checked_scores(scorer, histories[start:stop], torch.from_numpy(table))
        found[pairs] = block.float().cpu().numpy()[rows[pairs] - start, within]
    if np.isnan(found).any():
        pair = int(np.isnan(found).argmax())
        raise NonFiniteScoresError("the scores of a pair are NaN", int(rows[pair]))
    return found
