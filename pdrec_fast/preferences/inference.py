"""Preferences of a block of users: from a matrix of scores, or from vectors on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from pdrec_fast.data import Histories, Interactions
from pdrec_fast.errors import NonFiniteScoresError
from pdrec_fast.evaluation import Scorer, VectorScorer, checked_scores, uses_vectors
from pdrec_fast.ops.selection.project import rows_per_block
from pdrec_fast.ops.selection.sample_pool import sample_pool
from pdrec_fast.ops.selection.select_projected import select_projected
from pdrec_fast.ops.selection.select_unobserved import select_unobserved
from pdrec_fast.profiling import span
from pdrec_fast.ragged import Ragged, indptr_of, row_indices

# On a GPU a block's largest array is one bit per pair: 2^32 pairs are 512 MiB.
_PAIRS_PER_BLOCK = 1 << 32
_MOST_USERS = 1 << 14


@dataclass(frozen=True)
class PreferenceRequest:
    """What is inferred for each user; see ``Preferences.infer``.

    Attributes:
        observed: the training data's unique items, ``with_room``.
        first_rank: int64 [U], 0-based rank at which a user's pool begins.
        saw_all: bool [U], who has interacted with every item.
        top_m, n_draws: how many soft positives and draws.
        seed: of the draws.
    """

    observed: Ragged
    first_rank: np.ndarray
    saw_all: np.ndarray
    top_m: int
    n_draws: int
    seed: int


def with_room(observed: Ragged, n_unobserved: np.ndarray) -> Ragged:
    """``observed`` without item 0 of those who saw all, so that selections have something to
    select; what they find is no preference, see ``infer_block``."""
    if n_unobserved.all():
        return observed
    kept = (observed.values > 0) | (n_unobserved[observed.row_indices] > 0)
    return Ragged(observed.values[kept], indptr_of(kept)[observed.indptr])


def users_per_block(scorer: Scorer | VectorScorer, n_items: int) -> int:
    """How many users to infer at once."""
    if uses_vectors(scorer):
        return min(max(_PAIRS_PER_BLOCK // n_items, 1), _MOST_USERS)
    return rows_per_block(n_items)


def infer_block(
    scorer: Scorer | VectorScorer, train: Interactions, users: slice, request: PreferenceRequest
) -> list[np.ndarray]:
    """[record scores, top items, threshold scores, threshold items, draws] of a block of users."""
    histories = train.histories()[users]
    try:
        if uses_vectors(scorer):
            parts = _from_vectors(scorer, train, histories, users, request)
        else:
            parts = _from_scores(cast("Scorer", scorer), train, histories, users, request)
    except NonFiniteScoresError as error:
        user = train.user_ids[users.start + (error.row or 0)]
        raise NonFiniteScoresError.of_user(scorer, user) from None
    found = [part.cpu().numpy() for part in parts]
    saw_all = request.saw_all[users]
    if saw_all.any():
        for part, nothing in zip(found[1:], (-1, -np.inf, -1, -1), strict=True):
            part[saw_all] = nothing
    return found


def _from_vectors(
    scorer: VectorScorer,
    train: Interactions,
    histories: Histories,
    users: slice,
    request: PreferenceRequest,
) -> tuple[torch.Tensor, ...]:
    observed = request.observed.rows(users)
    with span("user vectors"):
        vectors = scorer.user_vectors(histories)
    with span("projection and selection"):
        found = select_projected(
            vectors,
            *scorer.item_vectors,
            (_on(observed.indptr, scorer.device), _on(observed.values, scorer.device)),
            request.top_m,
            _on(request.first_rank[users], scorer.device),
            request.n_draws,
            seed=request.seed,
            users=torch.arange(users.start, users.stop, device=scorer.device),
        )
    # Scores come once for each item a user observed; records can repeat one.
    unique = observed.row_indices * train.n_items + observed.values
    rows, record_items = _records(train, users)
    at = np.searchsorted(unique, rows * train.n_items + record_items).clip(max=len(unique) - 1)
    scores = found.observed_scores[_on(at, scorer.device)]
    # Of who saw all, item 0 was selected instead.
    selected = np.flatnonzero(request.saw_all[users][rows] & (record_items == 0))
    own = _on(rows[selected], scorer.device)
    scores[_on(selected, scorer.device)] = found.threshold_score[own]
    return scores, found.top_items, found.threshold_score, found.threshold_item, found.draws


@torch.no_grad()
def _from_scores(
    scorer: Scorer,
    train: Interactions,
    histories: Histories,
    users: slice,
    request: PreferenceRequest,
) -> tuple[torch.Tensor, ...]:
    scores = checked_scores(scorer, histories).cpu().float()
    block = request.observed.rows(users)
    observed = block.indptr, block.values
    with span("selection"):
        selection = select_unobserved(scores, observed, request.top_m, request.first_rank[users])
    with span("draws"):
        draws = sample_pool(
            scores,
            observed,
            selection.threshold_score,
            selection.threshold_item,
            request.n_draws,
            seed=request.seed,
            users=np.arange(users.start, users.stop),
        )
    rows, items = _records(train, users)
    return scores[torch.from_numpy(rows), torch.from_numpy(items)], *selection, draws


def _records(train: Interactions, users: slice) -> tuple[np.ndarray, np.ndarray]:
    """(row within the block, item), int64 each, of every training record of a block of users."""
    indptr = train.indptr[users.start : users.stop + 1]
    items = train.items[indptr[0] : indptr[-1]].astype(np.int64)
    return row_indices(indptr - indptr[0]), items


def _on(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(device)
