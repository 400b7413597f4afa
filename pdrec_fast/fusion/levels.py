"""Where a fusion leaves the items of a history, found from scores alone."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from pdrec_fast.data import Histories
from pdrec_fast.evaluation import Scorer, case_blocks, checked_scores, prepared
from pdrec_fast.fusion.fusion import Fusion, Levels, of_histories

_CASES = 128  # that the levels are taken on, fewer of a corpus where their scores would be
_SCORES = 1 << 23  # more than so many
_BEST = 9  # levels up to the rank of 16


def with_levels(
    fusion: Fusion, model: Scorer, histories: Histories, among: npt.NDArray[np.bool_] | None
) -> Fusion:
    """``fusion`` with the ``Fusion.levels`` of ``model``, which are logits without the blind shares
    and with all at half octaves of the rank, among what is not in the history: means over some
    cases, those that are infinite left out. None where no share is blind.

    What a model is sure of stands above all others, so there is one level more, as far above the
    best as the last is below, by the slope of the sixteen best.

    Args:
        histories: to take some of, not all empty; no target is looked at.
        among: bool [items], those that are ranked; None for all.
    """
    return Fusion(fusion.guides, fusion.shares, _levels(fusion.prepared(), model, histories, among))


def _levels(
    fusion: Fusion, model: Scorer, histories: Histories, among: npt.NDArray[np.bool_] | None
) -> Levels:
    if not fusion.blind:
        return ()
    model, n_items = prepared(model), histories.n_items
    histories = histories[np.flatnonzero(histories.lengths)]
    n_cases = min(len(histories), _CASES, max(16, _SCORES // n_items))
    sample = histories[np.linspace(0, len(histories) - 1, n_cases).astype(np.int64)]
    parts = []
    for block in case_blocks(model, n_cases, None, n_items):
        own = checked_scores(model, sample[block])
        own = own.to(torch.float64, copy=True)  # whoever keeps the scores
        own = Fusion(fusion.guides, fusion.foreseeing).add_to(own, sample[block])
        fused = Fusion(fusion.guides, fusion.blind).add_to(own.clone(), sample[block])
        places = of_histories(sample[block], None, own.device)
        for each in (own, fused):
            each[places] = -math.inf
        parts.append(torch.stack([_at_ranks(each, among) for each in (own, fused)], -1))
    levels = torch.cat(parts)
    # A guide may know nothing of somebody, and say so by -inf throughout.
    means = levels[levels.isfinite().all(2).any(1)].mean(0)
    means = means[means.isfinite().all(1)]
    own, fused = means[:_BEST].unbind(1)
    if len(own) < 2 or own[0] == own[-1]:
        return ()
    slope = (fused[0] - fused[-1]) / (own[0] - own[-1])
    reach = own[0] - means[-1, 0]
    above = torch.stack([own[0] + reach, fused[0] + slope * reach])
    return tuple(map(tuple, torch.cat([above[None], means]).tolist()))


def _at_ranks(scores: torch.Tensor, among: npt.NDArray[np.bool_] | None) -> torch.Tensor:
    """Scores [B, N] at the ranks 1, 1.4, 2, 2.8, 4, ... N: [B, levels]."""
    if among is not None:
        scores = scores[:, torch.from_numpy(np.flatnonzero(among)).to(scores.device)]
    steps = 2 ** np.arange(0, math.log2(scores.shape[1]), 0.5)
    ranks = np.unique([*steps.round().astype(np.int64), scores.shape[1]]) - 1
    return scores.sort(dim=1, descending=True).values[:, torch.from_numpy(ranks).to(scores.device)]
