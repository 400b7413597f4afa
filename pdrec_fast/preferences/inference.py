"""Preferences of a block of users: from a matrix of scores, or from vectors on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeGuard, cast

import numpy as np
import torch

from pdrec_fast.data import Histories, Interactions
from pdrec_fast.data.histories import row_of
from pdrec_fast.devices import off_cpu
from pdrec_fast.errors import NonFiniteScoresError
from pdrec_fast.evaluation import Scorer, checked_scores
from pdrec_fast.ops.selection.project import rows_per_block
from pdrec_fast.ops.selection.sample_pool import sample_pool
from pdrec_fast.ops.selection.select_projected import select_projected
from pdrec_fast.ops.selection.select_unobserved import select_unobserved
from pdrec_fast.profiling import span

# On a GPU a block's largest array is one bit per pair: 2^32 pairs are 512 MiB.
_PAIRS_PER_BLOCK = 1 << 32
_MOST_USERS = 1 << 14


class VectorSource(Protocol):
    """A source whose scores are products: ``item_vectors[0] @ user_vector + item_vectors[1]``.

    Attributes:
        device: where its vectors are.
        has_user_vectors: whether it is one in its present settings.
    """

    device: torch.device
    has_user_vectors: bool

    def user_vectors(self, histories: Histories) -> torch.Tensor:
        """float [B, H]."""
        ...

    @property
    def item_vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(vectors [N, H], offsets [N])."""
        ...


@dataclass(frozen=True)
class Wanted:
    """What is inferred for each user; see ``Preferences.infer``.

    Attributes:
        observed: (indptr, items) of the training data's unique items.
        first_rank: int64 [U], 0-based rank at which a user's pool begins.
    """

    observed: tuple[np.ndarray, np.ndarray]
    first_rank: np.ndarray
    top_m: int
    n_draws: int
    seed: int

    def observed_by(self, users: slice) -> tuple[np.ndarray, np.ndarray]:
        indptr, items = self.observed
        bounds = indptr[users.start : users.stop + 1]
        return bounds - bounds[0], items[bounds[0] : bounds[-1]]


def users_per_block(source: Scorer | VectorSource, n_items: int) -> int:
    """How many users to infer at once."""
    if uses_vectors(source):
        return min(max(_PAIRS_PER_BLOCK // n_items, 1), _MOST_USERS)
    return rows_per_block(n_items)


def infer_block(
    source: Scorer | VectorSource, train: Interactions, users: slice, wanted: Wanted
) -> list[np.ndarray]:
    """[record scores, top items, threshold scores, threshold items, draws] of a block of users."""
    histories = train.histories()[users]
    if uses_vectors(source):
        parts = _from_vectors(source, train, histories, users, wanted)
    else:
        parts = _from_scores(cast("Scorer", source), train, histories, users, wanted)
    return [part.cpu().numpy() for part in parts]


def uses_vectors(source: Scorer | VectorSource) -> TypeGuard[VectorSource]:
    """Whether scores are made and consumed within one kernel: on a GPU, where they are products."""
    return off_cpu(source) and getattr(source, "has_user_vectors", False)


def _from_vectors(
    source: VectorSource, train: Interactions, histories: Histories, users: slice, wanted: Wanted
) -> tuple[torch.Tensor, ...]:
    indptr, items = wanted.observed_by(users)
    with span("user vectors"):
        vectors = source.user_vectors(histories)
    with span("projection and selection"):
        found = select_projected(
            vectors,
            *source.item_vectors,
            (_on(indptr, source.device), _on(items, source.device)),
            wanted.top_m,
            _on(wanted.first_rank[users], source.device),
            wanted.n_draws,
            seed=wanted.seed,
            users=torch.arange(users.start, users.stop, device=source.device),
        )
    # Scores come once for each item a user observed; records can repeat one.
    unique = row_of(indptr) * train.n_items + items
    rows, record_items = _records(train, users)
    at = np.searchsorted(unique, rows * train.n_items + record_items)
    scores = found.observed_scores[_on(at, source.device)]
    return scores, found.top_items, found.threshold_score, found.threshold_item, found.draws


@torch.no_grad()
def _from_scores(
    source: Scorer, train: Interactions, histories: Histories, users: slice, wanted: Wanted
) -> tuple[torch.Tensor, ...]:
    scores = checked_scores(source, histories).cpu().float()
    observed = wanted.observed_by(users)
    with span("selection"):
        try:
            selection = select_unobserved(scores, observed, wanted.top_m, wanted.first_rank[users])
        except ValueError as error:
            name = type(source).__name__
            first = train.user_ids[users.start]
            raise NonFiniteScoresError(
                f"{name}.scores of a block of users from {first} on: {error}"
            ) from None
    with span("draws"):
        draws = sample_pool(
            scores,
            observed,
            selection.threshold_score,
            selection.threshold_item,
            wanted.n_draws,
            seed=wanted.seed,
            users=np.arange(users.start, users.stop),
        )
    rows, items = _records(train, users)
    return scores[torch.from_numpy(rows), torch.from_numpy(items)], *selection, draws


def _records(train: Interactions, users: slice) -> tuple[np.ndarray, np.ndarray]:
    """(row within the block, item), int64 each, of every training record of a block of users."""
    indptr = train.indptr[users.start : users.stop + 1]
    items = train.items[indptr[0] : indptr[-1]].astype(np.int64)
    return row_of(indptr - indptr[0]), items


def _on(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
