"""Ranks that many processes find together: each of its cases, or each among its own items."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.data import Holdout
from pdrec_fast.evaluation.metrics import Ranks, rank_counts
from pdrec_fast.evaluation.scoring import case_blocks, counted_from, excluded_pairs
from pdrec_fast.ranks import Axis


def gathered_ranks(ranks: Ranks, axis: Axis) -> Ranks:
    """The cases of all processes, in their order."""
    if axis.size == 1:
        return ranks
    counts = np.stack([ranks.greater, ranks.equal, ranks.candidates], axis=1)
    found = torch.cat(axis.gathered(torch.from_numpy(counts)))
    return Ranks(*found.numpy().T)


def rank_by_shards(
    scorer: Any,
    holdout: Holdout,
    candidates: npt.NDArray[np.bool_] | None = None,
    *,
    block_size: int | None = None,
) -> Ranks:
    """``rank_in_corpus`` by a scorer whose processes, along its axis ``items``, each score their
    own ``item_shard``: what stands above a target is counted by each among its items, and the
    counts are summed."""
    parts = []
    for block in case_blocks(scorer, len(holdout), block_size, holdout.histories.n_items):
        with counted_from(block.start):
            parts.append(_ranks_of(scorer, holdout[block], candidates))
    return Ranks.concatenate(parts)


def _ranks_of(scorer: Any, cases: Holdout, candidates: npt.NDArray[np.bool_] | None) -> Ranks:
    own: slice = scorer.item_shard
    scores = scorer.scores(cases.histories)
    targets = torch.from_numpy(cases.targets.astype(np.int64)).to(scores.device)
    here = (targets >= own.start) & (targets < own.stop)
    places = torch.where(here, targets - own.start, 0)
    wanted = scores.gather(1, places[:, None])[:, 0].masked_fill(~here, 0.0)
    wanted = scorer.items.sum_(wanted)
    rows, columns = excluded_pairs(cases.histories, cases.targets, candidates=None).numpy()
    ranked = np.ones(own.stop - own.start, dtype=bool) if candidates is None else candidates[own]
    inside = (columns >= own.start) & (columns < own.stop)
    rows, columns = rows[inside], columns[inside] - own.start
    rows, columns = rows[ranked[columns]], (np.cumsum(ranked) - 1)[columns[ranked[columns]]]
    counts = torch.zeros((3, len(cases)), dtype=torch.int64)
    if ranked.any():
        kept = torch.from_numpy(np.flatnonzero(ranked)).to(scores.device)
        pairs = torch.from_numpy(rows).to(scores.device), torch.from_numpy(columns).to(kept.device)
        found = rank_counts(wanted, scores.index_select(1, kept), pairs)
        counts = torch.from_numpy(np.stack([found.greater, found.equal, found.candidates]))
    return Ranks(*scorer.items.sum_(counts).numpy())
