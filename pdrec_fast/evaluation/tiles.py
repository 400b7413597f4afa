"""Ranks in a corpus so large that few rows of scores fill a CPU's cache: where scores are products,
a tile of many cases by some items at a time, so that the items' vectors are read less often."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import torch

from pdrec_fast.devices import off_cpu
from pdrec_fast.evaluation.metrics import Ranks, rank_counts
from pdrec_fast.evaluation.vectors import VectorScorer
from pdrec_fast.ops.selection.project import project, rows_per_block
from pdrec_fast.profiling import span

CASES_PER_TILE = 512
_SCORES_PER_TILE = 1 << 22  # 16 MiB
# Of as many rows a product takes less than twice the time of a tile's: the corpus in one piece.
_ENOUGH_ROWS = 64


def ranks_in_tiles(scorer: object, n_items: int) -> TypeGuard[VectorScorer]:
    """Whether ``rank_in_tiles`` is to be taken: on a CPU, for products with very many items."""
    products = getattr(scorer, "has_user_vectors", False) and not off_cpu(scorer)
    return products and rows_per_block(n_items) < _ENOUGH_ROWS


@torch.no_grad()
def rank_in_tiles(
    table: torch.Tensor,
    offsets: torch.Tensor,
    vectors: torch.Tensor,
    targets: torch.Tensor,
    excluded: torch.Tensor,
) -> Ranks:
    """Ranks of the targets by the scores ``vectors @ table.T + offsets``, which are never stored.

    Args:
        table: float32 [N, H]; offsets: [N].
        vectors: float32 [B, H], of the cases.
        targets: int64 [B].
        excluded: int64 [2, n], (case, item), each once: those that are no candidates.

    Raises:
        NonFiniteScoresError: a score is NaN.
    """
    excluded = excluded[:, excluded[1].argsort()]
    with span("scores"):  # a product with few items may round otherwise than one with a tile
        scores = project(vectors, table[targets], offsets[targets]).diagonal().contiguous()
    while True:
        ranks, found = _count(table, offsets, vectors, targets, excluded, scores)
        if torch.equal(found, scores):
            return ranks
        scores = found


def _count(
    table: torch.Tensor,
    offsets: torch.Tensor,
    vectors: torch.Tensor,
    targets: torch.Tensor,
    excluded: torch.Tensor,
    target_scores: torch.Tensor,
) -> tuple[Ranks, torch.Tensor]:
    """Ranks by ``target_scores`` [B], and the targets' scores as the tiles have them."""
    n_cases, n_items = len(vectors), len(table)
    width = max(_SCORES_PER_TILE // n_cases, 1)
    counts, found = np.zeros((3, n_cases), dtype=np.int64), target_scores.clone()
    edges = torch.searchsorted(excluded[1].contiguous(), torch.arange(0, n_items + width, width))
    for number, start in enumerate(range(0, n_items, width)):
        tile = slice(start, min(start + width, n_items))
        with span("scores"):
            scores = project(vectors, table[tile], offsets[tile])
        rows, columns = excluded[:, edges[number] : edges[number + 1]]
        ranks = rank_counts(target_scores, scores, (rows, columns - start))
        counts += ranks.greater, ranks.equal, ranks.candidates
        own = ((targets >= tile.start) & (targets < tile.stop)).nonzero()[:, 0]
        found[own] = scores[own, targets[own] - start]
    return Ranks(*counts), found
