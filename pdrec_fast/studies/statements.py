"""What the numbers say, in sentences computed from them and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pdrec_fast.studies.jobs import GUIDE
from pdrec_fast.studies.load import Comparison, Studies
from pdrec_fast.studies.paper import PROTOCOL
from pdrec_fast.studies.ranks import known_and_cold
from pdrec_fast.studies.wording import (
    data_name,
    in_order,
    is_full,
    metric_name,
    model_name,
    p_value,
    percent,
    variant_name,
    with_spread,
)

METRIC = "ndcg@10"
LEVEL = 0.05


def statements(studies: Studies) -> list[str]:
    """Counts over all data sets and encoders, then a sentence per model; empty without results."""
    protocols = sorted(studies.protocols, key=lambda name: name != PROTOCOL)
    found = [line for protocol in protocols for line in _count(studies, protocol)]
    for protocol in protocols[:1]:
        found += _models(studies, protocol)
    return [*found, *_ranks(studies)]


def significant(comparison: Comparison) -> bool:
    """Over seeds, or over users where there is one seed only."""
    p = comparison.p_users if math.isnan(comparison.p_seeds) else comparison.p_seeds
    return p < LEVEL


def _count(studies: Studies, protocol: str) -> Iterator[str]:
    gains = [row for row in _of_pdrec(studies, protocol) if math.isfinite(row.gain_percent)]
    if not gains:
        return
    above = [row for row in gains if row.gain_percent > 0]
    below = [row for row in gains if row.gain_percent < 0]
    clear = [sum(map(significant, rows)) for rows in (above, below)]
    pairs = "pair" if len(gains) == 1 else "pairs"
    yield (
        f"By {metric_name(METRIC)} on test, protocol {protocol}, PDRec is above its backbone in "
        f"{len(above)} of {len(gains)} {pairs} of data set and encoder (in {clear[0]} with "
        f"p < .05) and below it in {len(below)} (in {clear[1]} with p < .05)."
    )


def _of_pdrec(studies: Studies, protocol: str) -> Iterator[Comparison]:
    for data_set in studies.data_sets:
        for variant in filter(is_full, in_order(studies.variants(data_set))):
            comparison = studies.comparison(variant, protocol, METRIC)
            if comparison is not None:
                yield comparison


def _models(studies: Studies, protocol: str) -> Iterator[str]:
    by_model = list(_of_pdrec(studies, protocol))
    for data_set in studies.data_sets:
        for row in by_model:
            if row.data_set == data_set:
                yield _sentence(row, model_name(row.model))
        for variant in studies.variants(data_set):
            against = studies.comparison(variant, protocol, METRIC, baseline="t-diffrec")
            if variant.model == GUIDE and against is not None:
                yield _sentence(against, model_name("t-diffrec"))


def _sentence(row: Comparison, baseline: str) -> str:
    return (
        f"{variant_name(row.variant)} on {data_name(row.data_set)}: {metric_name(METRIC)} "
        f"{with_spread(row.mean, row.sd)} against {with_spread(row.baseline_mean, row.baseline_sd)}"
        f" of {baseline}: {percent(row.gain_percent)} ({p_value(row.p_seeds)} over {row.seeds} "
        f"{'seed' if row.seeds == 1 else 'seeds'}, {p_value(row.p_users)} over {row.users:,} "
        "users)."
    )


def _ranks(studies: Studies) -> Iterator[str]:
    for data_set in studies.data_sets:
        groups = known_and_cold(studies, data_set)
        if not groups:
            continue
        medians = []
        for group in groups:
            if sum(group.cases):
                kind = "items that occur in training" if group.known else "cold items"
                first, last = group.middle
                medians.append(f"{first:,}–{last:,} for {kind}")
        yield (
            f"On {data_name(data_set)}, {groups[-1].share:.1f} % of the test items are cold; the "
            f"median rank under {model_name(GUIDE)} lies within {' and within '.join(medians)}."
        )
