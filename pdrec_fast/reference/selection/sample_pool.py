"""``sample_pool`` from the mask of every pool."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.operands import DrawKey
from pdrec_fast.ragged import Ragged
from pdrec_fast.random_keys import NEGATIVES
from pdrec_fast.reference.counter_rng import bounded, words
from pdrec_fast.reference.selection.select_unobserved import observed_mask


def sample_pool(
    scores: torch.Tensor,
    observed: Ragged,
    threshold_score: npt.NDArray[np.float32],
    threshold_item: npt.NDArray[np.int32],
    n_draws: int,
    key: DrawKey,
    replace: bool,
) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
    """See ``pdrec_fast.ops.selection.sample_pool.sample_pool``; the arguments are checked there.

    Returns:
        the draws, int32 [B, n_draws], unwritten in rows whose pool is too small for them, and the
        sizes of the pools, int64 [B].
    """
    n_items = scores.shape[1]
    score = torch.from_numpy(threshold_score).unsqueeze(1)
    item = torch.from_numpy(threshold_item).unsqueeze(1)
    ranked = (scores < score) | ((scores == score) & (torch.arange(n_items) >= item))
    pools = ranked & ~observed_mask(observed, n_items)
    pool_size = pools.sum(dim=1).numpy()
    draws = torch.empty((len(scores), n_draws), dtype=torch.int32)
    for row in np.flatnonzero(pool_size >= (min(n_draws, 1) if replace else n_draws)):
        own = key._replace(users=key.users[row : row + 1])
        draws[row] = _draw(pools[row], n_draws, own, replace)
    return draws, pool_size


def _draw(pool: torch.Tensor, n_draws: int, key: DrawKey, replace: bool) -> torch.Tensor:
    candidates = torch.arange(len(pool))
    listed = pool.nonzero()[:, 0]
    if len(listed) * 64 < len(pool):
        candidates = listed
    drawn = candidates[:0]
    n_words = 4 * n_draws
    while len(drawn) < n_draws:
        word = words(key.seed, key.epoch, key.users.numpy(), n_words, NEGATIVES)[0]
        drawn = candidates[bounded(word, len(candidates))]
        drawn = drawn[pool[drawn]]
        if not replace:
            _, first = np.unique(drawn.numpy(), return_index=True)
            drawn = drawn[np.sort(first)]
        n_words *= 2
    return drawn[:n_draws].int()
