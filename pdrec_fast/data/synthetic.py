"""The embedded data set: generated interactions with the structure that PDRec feeds on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pdrec_fast.data.interactions import Interactions
from pdrec_fast.ragged import indptr_of

DAY = 86_400.0
FIRST_DAY = 1_577_836_800.0
"""2020-01-01 in unix seconds."""

_MAX_LENGTH = 200
_SUCCESSOR_ODDS = (0.5, 0.25, 0.15, 0.1)
_INTEREST_ODDS = (0.6, 0.3, 0.1)
_FOLLOW = 0.75
_SESSION_END = 0.25
_ONE_SESSION_USERS = 0.15
_DRIFT = 0.2


def synthetic(
    n_users: int = 2000,
    n_items: int = 3000,
    seed: int = 0,
    *,
    noise: float = 0.2,
    n_features: int = 0,
) -> Interactions:
    """Generate interactions of users whose interests drift and whose order carries signal.

    Items lie in about sqrt(n_items) clusters and have Zipf-like popularity. A user has three
    interests (clusters), one of which may be replaced at the start of a session. A session stays
    in one cluster and mostly steps from an item to one of its few successors, a list of the item's
    own; a share ``noise`` of the records is instead any item at all. Lengths are long-tailed: at
    least 3, median about 9, mean about 14. Records of a session are minutes apart, sessions days
    to weeks; some users have a single session.

    Args:
        n_users: at least 1.
        n_items: at least 10; the catalogue, of which a few items may never occur.
        seed: the same seed gives the same data.
        noise: share of noise records, in [0, 1).
        n_features: give every item a vector of so many numbers, like an embedding of its text: a
            random direction of its cluster, half of one of its own and half of the mean of the
            items that tend to follow it. The records are the same with and without.

    Returns:
        Interactions with raw ids 1..n and timestamps in whole unix seconds.

    Raises:
        ValueError: an argument out of its range.
    """
    if n_users < 1:
        raise ValueError(f"n_users must be at least 1, got {n_users}")
    if n_items < 10:
        raise ValueError(f"n_items must be at least 10, got {n_items}")
    if n_features < 0:
        raise ValueError(f"n_features must be at least 0, got {n_features}")
    if not 0 <= noise < 1:
        raise ValueError(f"noise must lie in [0, 1), got {noise}")
    rng = np.random.default_rng(seed)
    catalogue = _make_catalogue(rng, n_items)
    lengths = np.minimum(3 + rng.lognormal(np.log(6.5), 1.05, n_users).astype(int), _MAX_LENGTH)
    longest_first = np.argsort(-lengths, kind="stable")
    walked_items, walked_times = _walk(rng, catalogue, lengths[longest_first], noise)
    rows = np.argsort(longest_first)
    recorded = np.arange(walked_items.shape[1]) < lengths[:, None]
    return Interactions(
        indptr=indptr_of(lengths),
        items=walked_items[rows][recorded],
        timestamps=walked_times[rows][recorded],
        user_ids=np.arange(1, n_users + 1),
        item_ids=np.arange(1, n_items + 1),
        item_features=_features(rng, catalogue, n_features) if n_features else None,
    )


@dataclass(frozen=True, eq=False)
class _Catalogue:
    """Items sorted by cluster (``members``), so that one cumulative sum serves every draw.

    Attributes:
        members: [n_items], items, cluster after cluster.
        bounds: [n_clusters + 1], where each cluster starts in ``members``.
        cumulative: [n_items + 1], running popularity along ``members``.
        successors: [n_items, k], items that tend to follow each item, likeliest first.
    """

    members: np.ndarray
    bounds: np.ndarray
    cumulative: np.ndarray
    successors: np.ndarray

    @property
    def n_clusters(self) -> int:
        return len(self.bounds) - 1

    def draw_items(self, rng: np.random.Generator, clusters: np.ndarray) -> np.ndarray:
        """One item of each cluster, by popularity."""
        low = self.cumulative[self.bounds[clusters]]
        high = self.cumulative[self.bounds[clusters + 1]]
        return self.members[self._places(low + (high - low) * rng.random(len(clusters)))]

    def draw_clusters(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Clusters, by the popularity of their items."""
        places = self._places(self.cumulative[-1] * rng.random(shape))
        return np.searchsorted(self.bounds, places, side="right") - 1

    def _places(self, mass: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.cumulative[:-1], mass, side="right") - 1


def _make_catalogue(rng: np.random.Generator, n_items: int) -> _Catalogue:
    n_clusters = round(n_items**0.5)
    popularity = rng.permutation((np.arange(n_items) + 10.0) ** -1.0)
    clusters = rng.permutation(np.arange(n_items) % n_clusters)
    members = np.argsort(clusters, kind="stable")
    bounds = np.searchsorted(clusters[members], np.arange(n_clusters + 1))
    count = min(len(_SUCCESSOR_ODDS), int(np.diff(bounds).min()) - 1)
    successors = np.empty((n_items, count), np.int64)
    for start, stop in pairwise(bounds):
        group = members[start:stop]
        # The largest log-weights plus Gumbel noise are a weighted draw without replacement; the
        # square root keeps the most popular items from following everything.
        keys = 0.5 * np.log(popularity[group]) + rng.gumbel(size=(len(group), len(group)))
        np.fill_diagonal(keys, -np.inf)
        successors[group] = group[np.argsort(-keys, axis=1)[:, :count]]
    cumulative = np.concatenate([[0.0], np.cumsum(popularity[members])])
    return _Catalogue(members, bounds, cumulative, successors)


def _features(rng: np.random.Generator, catalogue: _Catalogue, n_features: int) -> np.ndarray:
    """[n_items, n_features], see ``synthetic``."""
    n_items = len(catalogue.members)
    clusters = np.empty(n_items, dtype=np.int64)
    clusters[catalogue.members] = np.repeat(
        np.arange(catalogue.n_clusters), np.diff(catalogue.bounds)
    )
    centres = rng.normal(size=(catalogue.n_clusters, n_features))
    own = rng.normal(size=(n_items, n_features))
    return centres[clusters] + 0.5 * own + 0.5 * own[catalogue.successors].mean(axis=1)


def _walk(
    rng: np.random.Generator, catalogue: _Catalogue, lengths: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Walk all users one record at a time; ``lengths`` descend, so the active ones are a prefix.

    Returns:
        items and timestamps [n_users, lengths[0]]; what lies beyond a user's length is undefined.
    """
    n_users, n_steps = len(lengths), int(lengths[0])
    items = np.zeros((n_users, n_steps), np.int32)
    times = np.zeros((n_users, n_steps))
    interests = catalogue.draw_clusters(rng, (n_users, len(_INTEREST_ODDS)))
    clusters = np.zeros(n_users, np.int64)
    current = np.zeros(n_users, np.int64)
    clock = FIRST_DAY + 2 * 365 * DAY * rng.random(n_users)
    session_end = np.where(rng.random(n_users) < _ONE_SESSION_USERS, 0.0, _SESSION_END)
    for step in range(n_steps):
        n = int(np.searchsorted(-lengths, -step, side="left"))
        starts = rng.random(n) < (session_end[:n] if step else 1.0)
        drift = np.flatnonzero(starts & (rng.random(n) < _DRIFT))
        slots = rng.integers(interests.shape[1], size=len(drift))
        interests[drift, slots] = catalogue.draw_clusters(rng, (len(drift),))
        chosen = interests[np.arange(n), _choose(rng, _INTEREST_ODDS, n)]
        clusters[:n] = np.where(starts, chosen, clusters[:n])
        current[:n] = _next_items(
            rng, catalogue, clusters[:n], current[:n], starts, seen=items[:n, :step]
        )
        noisy = rng.random(n) < noise
        items[:n, step] = np.where(noisy, rng.integers(len(catalogue.members), size=n), current[:n])
        days_apart = rng.lognormal(np.log(8.0), 0.8, n)
        clock[:n] += np.where(starts, days_apart * DAY, 5 + rng.exponential(120.0, n))
        times[:n, step] = np.floor(clock[:n])
    return items, times


def _next_items(
    rng: np.random.Generator,
    catalogue: _Catalogue,
    clusters: np.ndarray,
    current: np.ndarray,
    starts: np.ndarray,
    seen: np.ndarray,
) -> np.ndarray:
    """A successor of the current item, or any item of the cluster; seldom one seen before."""
    n, n_successors = len(current), catalogue.successors.shape[1]
    ranks = _choose(rng, _SUCCESSOR_ODDS[:n_successors], n)
    follows = ~starts & (rng.random(n) < _FOLLOW)
    proposed = np.where(
        follows, catalogue.successors[current, ranks], catalogue.draw_items(rng, clusters)
    )
    for _ in range(3):
        repeated = np.flatnonzero((seen == proposed[:, None]).any(axis=1))
        proposed[repeated] = catalogue.draw_items(rng, clusters[repeated])
    return proposed


def _choose(rng: np.random.Generator, odds: tuple[float, ...], count: int) -> np.ndarray:
    cumulative = np.cumsum(odds)
    return np.searchsorted(cumulative[:-1], cumulative[-1] * rng.random(count), side="right")
