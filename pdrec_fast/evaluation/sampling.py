"""Sampled negatives, items that a user never interacted with; and sampled validation cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pdrec_fast.data import Holdout, Interactions, Split
from pdrec_fast.ragged import Ragged, indptr_of, nth_absent
from pdrec_fast.random_keys import evaluation_negatives
from pdrec_fast.random_keys import validation_sample as sample_words

PAPER_NEGATIVES = 99
_FEW = 0.05  # of the users: these may be left out where the others have enough items to sample
_USERS_PER_BLOCK = 1 << 16


def sample_negatives(
    holdout: Holdout,
    data: Interactions,
    *,
    seed: int,
    name: str,
    n_negatives: int = PAPER_NEGATIVES,
) -> npt.NDArray[np.int32]:
    """Draw items without replacement, uniform over those a user never interacted with in ``data``
    (of two domains: over those of the target domain).

    A user's negatives depend on the seed, the split's name, the user's index and ``data``'s items
    of that user; not on which other users are evaluated.

    Args:
        holdout: n cases whose targets are in ``data``.
        data: all interactions: training, validation and test.
        seed: non-negative.
        name: the split's name.
        n_negatives: items to draw for every case.

    Returns:
        int32 [n, n_negatives], the order within a row being of no meaning.

    Raises:
        ValueError: a user has fewer than ``n_negatives`` unobserved items, or a target is not
            among the user's items in ``data``.
    """
    users = np.asarray(holdout.histories.users)
    observed = data.unique_items()
    _check_targets_observed(holdout, data, observed.row_indices * data.n_items + observed.values)
    observed = _among_targets(data, observed)

    available = (data.n_targets - observed.lengths)[users]
    if len(users) and available.min() < n_negatives:
        user = users[available.argmin()]
        raise ValueError(
            f"cannot sample {n_negatives} negatives: the corpus has {data.n_targets} items and "
            f"user {data.user_ids[user]} has not interacted with only {available.min()} of them; "
            "rank all items instead: protocols=('full',), and in a training select_by='full'"
        )
    words = _words_of(users, data.n_users, n_negatives, evaluation_negatives(seed, name))
    ordinals = _distinct_below(available, words)
    drawn = nth_absent(observed, users[:, None], ordinals, data.n_targets)
    if data.target_items is not None:
        drawn = np.flatnonzero(data.target_items)[drawn]
    return drawn.astype(np.int32)


def available_negatives(data: Interactions) -> npt.NDArray[np.int64]:
    """int64 [n_users]: how many items ``sample_negatives`` can choose from."""
    return data.n_targets - _among_targets(data, data.unique_items()).lengths


def can_sample(data: Interactions, users: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """bool [n], which of ``users`` have enough unobserved items for the ``paper`` protocol."""
    return available_negatives(data)[users] >= PAPER_NEGATIVES


def few_lack_negatives(enough: npt.NDArray[np.bool_]) -> bool:
    """Whether the ``paper`` protocol says something of the users: all but a few can be sampled
    for. Otherwise the corpus is too small for it."""
    return bool(enough.mean() >= 1 - _FEW)


def validation_sample(split: Split, n_users: int, seed: int) -> Split:
    """The split with ``n_users`` of its validation cases, drawn once and uniformly, in their order.

    Args:
        n_users: 0, or more than there are: all.
        seed: of the draw; a smaller sample of the same seed is part of a larger one.
    """
    valid = split.valid
    if n_users == 0 or n_users >= len(valid):
        return split
    words = sample_words(seed).random_raw(len(valid))
    chosen = np.sort(np.argsort(words, kind="stable")[:n_users])
    return replace(split, valid=valid[chosen])


def _among_targets(data: Interactions, items: Ragged) -> Ragged:
    """Rows of items in a corpus of ``data.target_items`` alone."""
    if data.target_items is None:
        return items
    inside = data.target_items[items.values]
    places = (np.cumsum(data.target_items) - 1)[items.values[inside]]
    return Ragged(places, indptr_of(inside)[items.indptr])


def _check_targets_observed(
    holdout: Holdout, data: Interactions, observed: npt.NDArray[np.int64]
) -> None:
    users = np.asarray(holdout.histories.users)
    wanted = users * data.n_items + holdout.targets
    found = observed[np.searchsorted(observed, wanted).clip(max=len(observed) - 1)] == wanted
    if not found.all():
        case = int(np.flatnonzero(~found)[0])
        raise ValueError(
            f"user {data.user_ids[users[case]]} never interacted with the target "
            f"{data.item_ids[holdout.targets[case]]} in data; pass the data that were split"
        )


def _words_of(
    users: npt.NDArray[np.int64], n_users: int, n_words: int, generator: np.random.PCG64
) -> npt.NDArray[np.uint64]:
    """Each user's own ``n_words`` of one stream over all users, drawn a block of users at a time.

    Raw words, as NumPy fixes the bit stream across versions but not that of its samplers.
    """
    words = np.empty((len(users), n_words), dtype=np.uint64)
    for start in range(0, n_users, _USERS_PER_BLOCK):
        block = generator.random_raw((min(_USERS_PER_BLOCK, n_users - start), n_words))
        inside = (users >= start) & (users < start + len(block))
        words[inside] = block[users[inside] - start]
    return words


def _distinct_below(
    bounds: npt.NDArray[np.int64], words: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Floyd's sampling: row r of the result is a uniform set of ``words.shape[1]`` numbers below
    ``bounds[r]`` (at least as many), from the upper 32 bits of the words."""
    n_draws = words.shape[1]
    chosen = np.empty((n_draws, len(bounds)), dtype=np.int64)
    fractions = (words >> np.uint64(32)).T
    for draw in range(n_draws):
        last = bounds - n_draws + draw
        number = (fractions[draw] * (last + 1).astype(np.uint64) >> np.uint64(32)).astype(np.int64)
        repeated = (chosen[:draw] == number).any(axis=0)
        chosen[draw] = np.where(repeated, last, number)
    return chosen.T
