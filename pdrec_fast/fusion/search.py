"""The shares of a fusion, chosen on validation."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from pdrec_fast.data import Histories, Split
from pdrec_fast.errors import NonFiniteScoresError
from pdrec_fast.evaluation import (
    PROTOCOLS,
    CorpusCases,
    Evaluator,
    Ranks,
    Scorer,
    can_sample,
    case_blocks,
    checked_scores,
    few_lack_negatives,
    per_case,
    prepared,
    rank_counts,
)
from pdrec_fast.fusion.fusion import Fusion, Share, check_trained_on, foresees_repeats, of_histories
from pdrec_fast.fusion.levels import with_levels
from pdrec_fast.isolation import own_settings
from pdrec_fast.ranks import ALONE, Axis, Mesh

logger = logging.getLogger("pdrec_fast")

SelectFusionBy = Literal["paper", "full", "both"]
_METRIC = "ndcg@10"
# Of the model's own spread: a weight of 1 gives a guide's scores the deviation of the logits.
_WEIGHTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
_TRANSFORMS = (Share(0.0, "raw"), *(Share(0.0, "log", floor) for floor in (1e-4, 1e-3, 1e-2)))
_LEAST_PROBABLE = -1.0
_LARGEST_WEIGHT = 1e30  # beyond, products with scores leave float32, as weights below 1e-30 do
_ROUNDS = 3
_PARTS = 5
_LEAST_CASES = 30
_SPREAD_CASES = 512  # that the spreads are taken on


@own_settings()
def choose_shares(
    model: Scorer,
    guides: Mapping[str, Scorer],
    split: Split,
    *,
    select_by: SelectFusionBy = "both",
    least_gain: float = 1.0,
    progress: bool = True,
    mesh: Mesh = ALONE,
) -> Fusion:
    """The shares that rank the validation targets of ``split`` best, 0 among the choices.

    Coordinate ascent: one guide's weight and transform after the other, and all again while
    anything changes, at most three times; the others' weights may be halved on the way. Weights
    and transforms are many, and the best of them gains something even where a guide knows nothing.
    So what a choice is worth is also taken on cases that it was not made on: five parts, each by
    the choice of the others. As that may take a share away again, of all that was passed on the way
    the best is taken.

    Args:
        model: gives the logits that the shares are added to.
        guides: name -> scorer, fitted like the model on the split's training part.
        select_by: protocol whose validation NDCG@10 is to rise; with ``"both"`` it is the smaller
            one of the relative gains under the two and their mean, so that neither is sold for the
            other.
        least_gain: a share is taken where the gain on cases it was not chosen on is more than so
            many of its standard errors (paired, over users), and under no protocol a loss;
            otherwise, and with fewer than 30 users, it is 0.
        mesh: processes that share the cases; every one must make the same call.

    Raises:
        ValueError: no such protocol; or a scorer is of another catalogue, or says (``trained_on``)
            that it was fitted on other interactions than the split's training part.
        NonFiniteScoresError: a score is NaN.
    """
    if select_by not in get_args(SelectFusionBy):
        raise ValueError(f"select_by={select_by!r}: choose one of {get_args(SelectFusionBy)}")
    check_trained_on(model, split.train, "the model")
    for name, guide in guides.items():
        check_trained_on(guide, split.train, f"the guide {name!r}")
    if len(split.valid) < _LEAST_CASES:
        logger.warning(
            "fusion: %d validation cases are too few to choose shares by, %d are needed: no guide "
            "gets one",
            len(split.valid),
            _LEAST_CASES,
        )
    search = _Search(model, guides, split, select_by, least_gain, mesh.all)
    shares = best = dict.fromkeys(guides, Share())
    most = 0.0
    with tqdm(desc="fusion", unit="share", disable=not (progress and mesh.is_first)) as bar:
        for _ in range(_ROUNDS):
            before = dict(shares)
            for name in guides:
                shares, worth = search.step(name, shares)
                if worth > most:
                    best, most = shares, worth
                bar.set_postfix_str(_described(shares), refresh=False)
                bar.update()
            if shares == before or len(guides) == 1:
                break
    return with_levels(Fusion(guides, best), model, search.sample, search.among)


class _Search:
    """Looks at one share at a time, all its values for a block of cases together."""

    def __init__(
        self,
        model: Scorer,
        guides: Mapping[str, Scorer],
        split: Split,
        select_by: SelectFusionBy,
        least_gain: float,
        axis: Axis,
    ) -> None:
        self.model, self.least_gain, self.axis = prepared(model), least_gain, axis
        self.guides = {name: prepared(guide) for name, guide in guides.items()}
        self.protocols = list(PROTOCOLS) if select_by == "both" else [select_by]
        enough = can_sample(split.data, split.valid.users)
        if not few_lack_negatives(enough):
            if select_by == "paper":
                logger.warning(
                    "fusion: the corpus is too small for the 'paper' protocol, shares are chosen "
                    "under 'full' alone"
                )
            self.protocols = ["full"]
        if "paper" in self.protocols:  # both protocols then have the same cases
            split = replace(split, valid=split.valid[enough])
        self.holdout, self.among = split.valid, split.data.target_items
        self.candidates: torch.Tensor | None = None  # of ``paper``, the targets first
        if "paper" in self.protocols:
            negatives = Evaluator(split).negatives("valid")
            self.candidates = torch.from_numpy(
                np.column_stack([split.valid.targets, negatives]).astype(np.int64)
            )
        self.alone: npt.NDArray[np.float64] | None = None  # the model's own figures, by protocol
        n_cases = len(self.holdout)
        rows = np.linspace(0, n_cases - 1, min(n_cases, _SPREAD_CASES)).astype(np.int64)
        self.sample = self.holdout.histories[rows]

    def step(self, name: str, shares: Mapping[str, Share]) -> tuple[dict[str, Share], float]:
        """``shares`` with the best one of a guide, where those of the others stay or are halved:
        what two guides both know, they share; and what they are worth beside the model alone. The
        first call, with no other share, also finds what that reaches."""
        others = {key: share for key, share in shares.items() if key != name}
        factors = (1.0, 0.5) if any(share.weight for share in others.values()) else (1.0,)
        tried = [Share(), *self._values(name, Fusion(self.guides, others))]
        moves = []
        for factor in factors:
            scaled = {key: replace(s, weight=factor * s.weight) for key, s in others.items()}
            moves += [{**shares, **scaled, name: share} for share in tried]
        figures = self._figures(name, Fusion(self.guides, others), factors, tried)
        if self.alone is None:
            self.alone = figures[0].mean(axis=1)
        least = np.maximum(self.alone, 1e-12)
        gains = (figures - figures[0]) / least[:, None]
        n_cases = gains.shape[2]
        if n_cases < _LEAST_CASES:
            return moves[0], 0.0
        part = np.arange(n_cases) % _PARTS
        unseen = np.zeros(gains.shape[1:])  # gains of every case by a choice made without it
        for p in range(_PARTS):
            choice = _best_of(gains[:, :, part != p])
            unseen[:, part == p] = gains[choice][:, part == p]
        total, error = unseen.sum(axis=0).mean(), unseen.sum(axis=0).std() / math.sqrt(n_cases)
        taken = total > self.least_gain * error and unseen.mean(axis=1).min() >= 0
        chosen = _best_of(gains) if taken else 0
        return moves[chosen], float(_worth((figures[chosen].mean(axis=1) - self.alone) / least))

    def _figures(
        self, name: str, others: Fusion, factors: Sequence[float], tried: list[Share]
    ) -> npt.NDArray[np.float64]:
        """The metric of all cases with the others' weights times every factor, and every share of a
        guide: [factors x shares, protocols, cases]. The first share is that of 0."""
        n_items, own = self.holdout.histories.n_items, self.axis.share(len(self.holdout))
        parts = [np.zeros((len(factors) * len(tried), len(self.protocols), 0))]
        if self.axis.size == 1 or own.start < own.stop:
            for block in case_blocks(self.model, own.stop - own.start, None, n_items):
                cases = slice(own.start + block.start, own.start + block.stop)
                parts.append(self._of_block(cases, name, others, factors, tried))
        figures = np.concatenate(parts, axis=2)
        if self.axis.size == 1:
            return figures
        by_case = torch.from_numpy(np.moveaxis(figures, 2, 0).copy())
        gathered = torch.cat(self.axis.gathered(by_case)).numpy()
        return np.moveaxis(gathered, 0, 2).copy()

    def _of_block(
        self,
        block: slice,
        name: str,
        others: Fusion,
        factors: Sequence[float],
        tried: list[Share],
    ) -> npt.NDArray[np.float64]:
        histories = self.holdout.histories[block]
        cases = CorpusCases(histories, self.holdout.targets[block], self.among)
        own, theirs, scores = self._scores(histories, name, others)
        again = _in_history(histories, self.holdout.targets[block], own.device)
        if len(again) and others.blind:
            repeats, some = Fusion(self.guides, others.foreseeing), histories[again.cpu().numpy()]
            theirs[again] = repeats.add_to(torch.zeros_like(theirs[again]), some)
        if not foresees_repeats(self.guides[name]):
            scores = scores.index_fill(0, again, 0.0)
        bases = [torch.add(own, theirs, alpha=factor) for factor in factors]
        # The share of 0 asks for no score, not even for an infinite one.
        nothing = torch.zeros_like(own), torch.zeros(1, dtype=torch.float32)
        found = [[self._of_group(block, cases, base, *nothing)] for base in bases]
        for _, alike in groupby(tried[1:], key=lambda share: (share.transform, share.floor)):
            shares = list(alike)
            weights = torch.tensor([share.weight for share in shares], dtype=torch.float32)
            transformed = shares[0].of(scores)
            for base, figures in zip(bases, found, strict=True):
                figures.append(self._of_group(block, cases, base, transformed, weights))
        return np.concatenate([each for figures in found for each in figures])

    def _scores(
        self, histories: Histories, name: str, others: Fusion
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The model's logits, what the other shares add, and the guide's scores."""
        own = checked_scores(self.model, histories)
        own = own if own.is_floating_point() else own.float()
        theirs = others.add_to(torch.zeros_like(own), histories)
        scores = checked_scores(self.guides[name], histories)
        return own, theirs, scores.to(own.device, own.dtype)

    def _values(self, name: str, others: Fusion) -> list[Share]:
        """The shares to try, in units of the spread that logits and scores have."""
        logits, scores = [], []
        for block in case_blocks(self.model, len(self.sample), None, self.sample.n_items):
            own, added, some = self._scores(self.sample[block], name, others)
            fused = own + added
            there = fused.isfinite() & ~some.isinf()
            logits.append(fused[there])
            scores.append(some[there])
        theirs = torch.cat(scores)
        if theirs.isnan().any():
            raise NonFiniteScoresError(f"the guide {name!r} gives scores that are NaN")
        spread = _spread(torch.cat(logits))
        tried = []
        # A logarithm is for what is like a probability, not for logits.
        probable = bool((theirs > _LEAST_PROBABLE).all())
        transforms = _TRANSFORMS if probable else _TRANSFORMS[:1]
        for transform in transforms:
            unit = _spread(transform.of(theirs))
            scale = spread / unit if unit else 0.0
            if 1 / _LARGEST_WEIGHT < scale < _LARGEST_WEIGHT:
                tried += [replace(transform, weight=scale * weight) for weight in _WEIGHTS]
        return tried

    def _of_group(
        self,
        block: slice,
        cases: CorpusCases,
        logits: torch.Tensor,
        scores: torch.Tensor,
        weights: torch.Tensor,
    ) -> npt.NDArray[np.float64]:
        """The metric of a block's cases by ``logits + w * scores`` for every weight w: [weights,
        protocols, cases]."""
        found = []
        for protocol in self.protocols:
            if protocol == "full":
                ranks = cases.ranks_of_sums(logits, scores, weights)
            else:
                ranks = self._sampled_ranks(block, logits, scores, weights)
            found.append([per_case(each, _METRIC) for each in ranks])
        return np.array(found).swapaxes(0, 1)

    def _sampled_ranks(
        self, block: slice, logits: torch.Tensor, scores: torch.Tensor, weights: torch.Tensor
    ) -> list[Ranks]:
        assert self.candidates is not None
        candidates = self.candidates[block].to(logits.device)
        logits, scores = logits.gather(1, candidates), scores.gather(1, candidates)
        sums = (logits + weight * scores for weight in weights.tolist())
        return [rank_counts(each[:, 0], each[:, 1:]) for each in sums]


def _best_of(gains: npt.NDArray[np.float64]) -> int:
    """The share of the largest worth, of gains [shares, protocols, cases]."""
    return int(_worth(gains.mean(axis=2)).argmax())


def _worth(gains: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of gains [..., protocols]: the smaller one and the mean."""
    return gains.min(axis=-1) + gains.mean(axis=-1)


def _in_history(
    histories: Histories, targets: npt.NDArray[np.int32], device: torch.device
) -> torch.Tensor:
    """int64, the cases whose target is an item of their history."""
    items = torch.from_numpy(targets.astype(np.int64))[:, None]
    return of_histories(histories, items, device)[0]


def _spread(values: torch.Tensor) -> float:
    """Their deviation; 0 where it is no more than rounding."""
    if not values.numel():
        return 0.0
    deviation = float(values.double().std(correction=0))
    return deviation if deviation > 1e-6 * float(values.abs().max()) else 0.0


def _described(shares: Mapping[str, Share]) -> str:
    return ", ".join(f"{name} {share.weight:.3g}" for name, share in shares.items())
