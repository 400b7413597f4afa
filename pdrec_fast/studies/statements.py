"""What the numbers say, in sentences computed from them and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pdrec_fast.studies.jobs import GUIDE
from pdrec_fast.studies.labels import (
    METRIC,
    METRIC_NAME,
    interval,
    model_name,
    p_value,
    percent,
    with_spread,
)
from pdrec_fast.studies.load import Studies
from pdrec_fast.studies.paper import PROTOCOL
from pdrec_fast.studies.ranks import known_and_cold
from pdrec_fast.studies.variants import Variant, in_order

LEVEL = 0.05


def statements(studies: Studies) -> list[str]:
    """Counts over all data sets and encoders, then a sentence per model; empty without results."""
    protocols = sorted(studies.protocols, key=lambda name: name != PROTOCOL)
    found = [line for protocol in protocols for line in _count(studies, protocol)]
    for protocol in protocols[:1]:
        found += _models(studies, protocol)
    return [*found, *_ranks(studies)]


def significant(comparison: Any) -> bool:
    """Over seeds, or over users where there is one seed only."""
    p = comparison.p_users if math.isnan(comparison.p_seeds) else comparison.p_seeds
    return bool(p < LEVEL)


def _full_variants(studies: Studies, protocol: str) -> list[Any]:
    """Rows of comparisons of PDRec with its backbones."""
    variants = [each for found in studies.data_sets for each in in_order(studies.variants(found))]
    rows = [studies.comparison(each, protocol, METRIC) for each in variants if each.is_full]
    return [row for row in rows if row is not None]


def _count(studies: Studies, protocol: str) -> Iterator[str]:
    rows = _full_variants(studies, protocol)
    gains = [row for row in rows if math.isfinite(row.gain_percent)]
    if not gains:
        return
    above = [row for row in gains if row.gain_percent > 0]
    below = [row for row in gains if row.gain_percent < 0]
    clear = [sum(map(significant, rows)) for rows in (above, below)]
    yield (
        f"By {METRIC_NAME} on test, protocol {protocol}, PDRec is above its backbone in "
        f"{len(above)} of {_counted(len(gains), 'pair')} of data set and encoder (in {clear[0]} "
        f"with p < .05) and below it in {len(below)} (in {clear[1]} with p < .05)."
    )


def _models(studies: Studies, protocol: str) -> Iterator[str]:
    rows = _full_variants(studies, protocol)
    for data_set in studies.data_sets:
        for row in rows:
            if (row.data, row.preset) == data_set:
                yield _sentence(row, row.model)
        for variant in studies.variants(data_set):
            against = studies.comparison(variant, protocol, METRIC, baseline="t-diffrec")
            if variant.model == GUIDE and against is not None:
                yield _sentence(against, "t-diffrec")


def _sentence(row: Any, baseline: str) -> str:
    variant = Variant(*row[:5])
    return (
        f"{variant.name} on {variant.data_set.name}: {METRIC_NAME} "
        f"{with_spread(row.mean, row.sd)} against {with_spread(row.baseline_mean, row.baseline_sd)}"
        f" of {model_name(baseline)}: {percent(row.gain_percent)} ({p_value(row.p_seeds)} over "
        f"{_counted(row.seeds, 'seed')}, {p_value(row.p_users)} over {row.users:,} users)."
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _ranks(studies: Studies) -> Iterator[str]:
    for data_set in studies.data_sets:
        groups = known_and_cold(studies, data_set)
        if groups:
            medians = [
                f"{interval(*group.median)} for {group.kind}" for group in groups if group.median
            ]
            yield (
                f"On {data_set.name}, {groups[-1].share:.1f} % of the test items are cold; "
                f"the median rank under {model_name(GUIDE)} lies within "
                f"{' and within '.join(medians)}."
            )
