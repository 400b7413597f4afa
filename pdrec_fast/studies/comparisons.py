"""Each variant of a model against what it should improve on, with paired t-tests."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from pdrec_fast.evaluation import metric_names, per_case
from pdrec_fast.studies.finished import FinishedJob
from pdrec_fast.studies.jobs import FULL, GUIDE, INCREMENTS, PLAIN
from pdrec_fast.studies.variants import Variant

BySeed = dict[int, FinishedJob]


def compare(runs: Sequence[FinishedJob]) -> Iterator[dict[str, Any]]:
    """Rows of ``comparisons.csv``: test and validation, every protocol and metric.

    A variant is compared with its plain backbone, with the increment before it and, where it has
    all modules, with the same guided by another recommender than TI-DiffRec; TI-DiffRec with
    T-DiffRec. Only seeds that both have count. ``baseline`` names the other: modules of the same
    model (followed by ``by GUIDE`` for another guide), or a model's name.
    """
    variants: dict[Variant, BySeed] = {}
    for run in runs:
        variants.setdefault(run.variant, {})[run.job.seed] = run
    for variant, ours in variants.items():
        for baseline, other in _baselines(variant, variants):
            if other in variants and ours.keys() & variants[other].keys():
                yield from _comparison(variant, ours, variants[other], baseline)


def paired_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Two-sided p of a paired t-test; NaN for fewer than two pairs or where none differs."""
    from scipy.stats import ttest_rel

    if len(ours) < 2 or np.array_equal(ours, theirs):
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # differences that are all alike
        return float(ttest_rel(ours, theirs).pvalue)


def gain_percent(mean: float, baseline: float) -> float:
    """Relative improvement; NaN over nothing."""
    return 100 * (mean / baseline - 1) if baseline else float("nan")


def sample_sd(values: np.ndarray) -> float:
    """Standard deviation over seeds; NaN for one."""
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _baselines(variant: Variant, variants: Collection[Variant]) -> Iterator[tuple[str, Variant]]:
    """(name, variant) of what to compare with, whether there is such a variant or not."""
    modules, by_diffusion = variant.modules, variant.guide == GUIDE
    if variant.model == GUIDE:
        yield "t-diffrec", variant._replace(model="t-diffrec")
    if modules == PLAIN:
        return
    yield PLAIN, variant.plain
    if modules in INCREMENTS[1:] and by_diffusion:
        before = INCREMENTS[INCREMENTS.index(modules) - 1]
        yield before, variant._replace(modules=before)
    if modules == FULL and by_diffusion:
        for other in variants:
            if other != variant and other._replace(guide=GUIDE) == variant:
                yield f"{FULL} by {other.guide}", other


def _comparison(
    variant: Variant, ours: BySeed, theirs: BySeed, baseline: str
) -> Iterator[dict[str, Any]]:
    seeds = sorted(ours.keys() & theirs.keys())
    pairs = [[runs[seed] for seed in seeds] for runs in (ours, theirs)]
    for protocol, splits in pairs[0][0].ranks.items():
        for split, cases in splits.items():
            for metric in metric_names():
                # float64 [seeds], and averaged over seeds [cases]
                values, others = (
                    np.array([run.metrics["protocols"][protocol][split][metric] for run in runs])
                    for runs in pairs
                )
                users, other_users = (
                    np.mean([per_case(run.ranks[protocol][split], metric) for run in runs], axis=0)
                    for runs in pairs
                )
                mean, other_mean = float(values.mean()), float(others.mean())
                yield {
                    **variant._asdict(),
                    "baseline": baseline,
                    "protocol": protocol,
                    "split": split,
                    "metric": metric,
                    "seeds": len(seeds),
                    "users": len(cases),
                    "mean": mean,
                    "sd": sample_sd(values),
                    "baseline_mean": other_mean,
                    "baseline_sd": sample_sd(others),
                    "gain_percent": gain_percent(mean, other_mean),
                    "p_seeds": paired_p(values, others),
                    "p_users": paired_p(users, other_users),
                }
