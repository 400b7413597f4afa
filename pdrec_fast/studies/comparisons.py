"""Each variant of a model against what it should improve on, with paired t-tests."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from pdrec_fast.evaluation import metric_names, per_case
from pdrec_fast.studies.jobs import FULL, GUIDE, INCREMENTS, PLAIN

if TYPE_CHECKING:
    from pdrec_fast.studies.collect import Finished

BySeed = dict[int, "Finished"]
Variants = dict[tuple[str, str], BySeed]  # (modules, guide) -> runs
Place = tuple[str, str, str]  # protocol, split, metric


def compare(runs: Sequence[Finished]) -> list[dict[str, Any]]:
    """Rows of ``comparisons.csv``: test and validation, every protocol and metric.

    A variant is compared with its plain backbone, with the increment before it and, where it has
    all modules, with the same guided by another recommender than TI-DiffRec; TI-DiffRec with
    T-DiffRec. Only seeds that both have count. ``baseline`` is what it is compared with: modules
    of the same model (followed by ``by GUIDE`` for another guide), or a model's name.
    """
    rows: list[dict[str, Any]] = []
    for _, group in groupby(runs, key=lambda run: (run.job.data, run.preset)):
        user_means = _UserMeans()
        models: dict[str, Variants] = {}
        for run in group:
            job = run.job
            by_seed = models.setdefault(job.model, {}).setdefault((job.modules, job.guide), {})
            by_seed[job.seed] = run
        for model, variants in models.items():
            for variant, by_seed in variants.items():
                for baseline, others in _baselines(model, variant, variants, models):
                    rows += _comparison(by_seed, others, baseline, user_means)
    return rows


def paired_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Two-sided p of a paired t-test; NaN for fewer than two pairs or where none differs."""
    from scipy.stats import ttest_rel

    if len(ours) < 2 or np.array_equal(ours, theirs):
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # differences that are all alike
        return float(ttest_rel(ours, theirs).pvalue)


def _baselines(
    model: str, variant: tuple[str, str], variants: Variants, models: dict[str, Variants]
) -> Iterator[tuple[str, BySeed]]:
    modules, guide = variant
    if model == GUIDE and "t-diffrec" in models:
        yield "t-diffrec", models["t-diffrec"][PLAIN, ""]
    if modules == PLAIN:
        return
    wanted = [(PLAIN, "", PLAIN)]
    if modules in INCREMENTS[1:] and guide == GUIDE:
        before = INCREMENTS[INCREMENTS.index(modules) - 1]
        wanted.append((before, GUIDE, before))
    if modules == FULL and guide == GUIDE:
        others = [of for name, of in variants if name == FULL and of != GUIDE]
        wanted += [(FULL, of, f"{FULL} by {of}") for of in others]
    for of_modules, of_guide, name in wanted:
        if (of_modules, of_guide) in variants:
            yield name, variants[of_modules, of_guide]


def _comparison(
    ours: BySeed, theirs: BySeed, baseline: str, user_means: _UserMeans
) -> Iterator[dict[str, Any]]:
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return
    first = ours[seeds[0]]
    key = {name: value for name, value in first.key.items() if name != "seed"}
    for protocol, by_split in first.ranks.items():
        for split, cases in by_split.items():
            for metric in metric_names():
                place = protocol, split, metric
                values, others = (_by_seed(of, seeds, place) for of in (ours, theirs))
                mean, other_mean = float(values.mean()), float(others.mean())
                p_users = paired_p(*(user_means(of, seeds, place) for of in (ours, theirs)))
                yield {
                    **key,
                    "baseline": baseline,
                    **dict(zip(("protocol", "split", "metric"), place, strict=True)),
                    "seeds": len(seeds),
                    "users": len(cases),
                    "mean": mean,
                    "sd": sample_sd(values),
                    "baseline_mean": other_mean,
                    "baseline_sd": sample_sd(others),
                    "gain_percent": gain_percent(mean, other_mean),
                    "p_seeds": paired_p(values, others),
                    "p_users": p_users,
                }


def gain_percent(mean: float, baseline: float) -> float:
    """Relative improvement; NaN over nothing."""
    return 100 * (mean / baseline - 1) if baseline else float("nan")


def sample_sd(values: np.ndarray) -> float:
    """Standard deviation over seeds; NaN for one."""
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _by_seed(runs: BySeed, seeds: Sequence[int], place: Place) -> np.ndarray:
    """float64 [seeds]."""
    protocol, split, metric = place
    return np.array([runs[s].metrics["protocols"][protocol][split][metric] for s in seeds])


class _UserMeans:
    """A metric of every case, averaged over seeds; kept, as a backbone is compared many times."""

    def __init__(self) -> None:
        self._kept: dict[tuple[tuple[Finished, ...], Place], np.ndarray] = {}

    def __call__(self, runs: BySeed, seeds: Sequence[int], place: Place) -> np.ndarray:
        """float64 [cases]."""
        key = tuple(runs[seed] for seed in seeds), place
        if key not in self._kept:
            protocol, split, metric = place
            cases = [per_case(runs[seed].ranks[protocol][split], metric) for seed in seeds]
            self._kept[key] = np.mean(cases, axis=0)
        return self._kept[key]
