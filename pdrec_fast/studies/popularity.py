"""Who gains: test cases apart by how often their target occurs in training."""

from __future__ import annotations

from collections.abc import Mapping

from pdrec_fast.studies.load import DataSet, PopularityBin, Studies, Variant
from pdrec_fast.studies.markup import Cell, table
from pdrec_fast.studies.wording import (
    data_name,
    in_order,
    mean_and_sd,
    metric_name,
    percent,
    variant_name,
    with_spread,
)

Bin = tuple[int, int]


def popularity_table(studies: Studies, data_set: DataSet, protocol: str) -> str | None:
    """Variants down, the targets' training records across; None without rows."""
    rows = [
        row for row in studies.popularity if row.data_set == data_set and row.protocol == protocol
    ]
    if not rows:
        return None
    found = _values(rows)
    cases = {(row.records_from, row.records_to): row.cases for row in rows}
    bins = sorted(cases)
    lines = []
    for variant in in_order(found):
        plain = found.get(variant._replace(modules="none", guide=""), {})
        cells = [_cell(found[variant].get(of, {}), plain.get(of, {})) for of in bins]
        lines.append((variant_name(variant), cells))
    share = {of: 100 * cases[of] / sum(cases.values()) for of in bins}
    heads = [f"{_name(of)} ({share[of]:.0f} %)" for of in bins]
    return table(
        f"{metric_name(rows[0].metric)} on the test split of {data_name(data_set)}, protocol "
        f"{protocol}, by the target's records in training (in brackets: share of the cases); "
        "below, the change over the same encoder alone.",
        ["model", *heads],
        lines,
    )


def _values(rows: list[PopularityBin]) -> dict[Variant, dict[Bin, dict[int, float]]]:
    """Variant -> bin -> seed -> value."""
    found: dict[Variant, dict[Bin, dict[int, float]]] = {}
    for row in rows:
        of_bin = found.setdefault(row.variant, {})
        of_bin.setdefault((row.records_from, row.records_to), {})[row.seed] = row.value
    return found


def _cell(values: Mapping[int, float], plain: Mapping[int, float]) -> Cell:
    """Mean over seeds; the change over the seeds that both have."""
    shared = [seed for seed in values if seed in plain]
    before, _ = mean_and_sd(plain[seed] for seed in shared)
    after, _ = mean_and_sd(values[seed] for seed in shared)
    gained = values is not plain and before > 0
    notes = (percent(100 * (after / before - 1)),) if gained else ()
    return Cell(with_spread(*mean_and_sd(values.values())), notes)


def _name(of: Bin) -> str:
    first, last = of
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"
