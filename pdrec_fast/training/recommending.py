"""The items that a scorer ranks first for each user."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pdrec_fast.data import Histories, Interactions
from pdrec_fast.errors import DataError
from pdrec_fast.evaluation import Scorer, prepared
from pdrec_fast.ops.selection.project import rows_per_block
from pdrec_fast.ops.selection.select_unobserved import top_items
from pdrec_fast.ragged import row_indices


def recommend(
    scorer: Scorer,
    data: Interactions,
    users: Any,
    k: int,
    filter_seen: bool,
    block_size: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` best items of ``users`` after their histories in ``data``; see
    ``PDRec.recommend``."""
    if block_size is None:
        block_size = rows_per_block(data.n_items)
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    if not 1 <= k <= data.n_targets:
        raise ValueError(f"k must lie in 1 .. {data.n_targets} (the number of items), got {k}")
    others = None if data.target_items is None else torch.from_numpy(~data.target_items)
    histories = data.histories(data.user_index(users))
    if len(histories) and not histories.lengths.min():
        raise DataError(
            f"user {data.user_ids[histories.users[histories.lengths.argmin()]]!r} has no "
            "interactions to recommend from"
        )
    scorer = prepared(scorer)
    ids = np.full((len(histories), k), None, dtype=object)
    logits = np.full((len(histories), k), -np.inf, dtype=np.float32)
    for start in range(0, len(histories), block_size):
        block = slice(start, start + block_size)
        scores = scorer.scores(histories[block]).cpu()
        if filter_seen:
            _mask_seen(scores, histories[block])
        if others is not None:
            scores.masked_fill_(others, -torch.inf)
        best = top_items(scores, k)
        logits[block] = scores.gather(1, best)
        found = logits[block] > -np.inf
        ids[block][found] = data.item_ids[best.numpy()[found]]
    return ids, logits


def _mask_seen(scores: torch.Tensor, histories: Histories) -> None:
    """Set the scores [B, N] of each history's items to -inf, in place."""
    indptr, items, _ = histories.packed()
    rows = row_indices(indptr)
    scores[torch.from_numpy(rows), torch.from_numpy(items.astype(np.int64))] = -torch.inf
