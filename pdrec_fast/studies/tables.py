"""A study's results as Markdown, in the layout of the paper's tables, from its CSV files alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pdrec_fast.evaluation import PROTOCOLS
from pdrec_fast.studies.jobs import FULL, GUIDE, MODEL_NAMES, OTHER_GUIDE, PLAIN
from pdrec_fast.studies.labels import METRIC, metric_name, model_name
from pdrec_fast.studies.load import Studies
from pdrec_fast.studies.paper import TABLE_1_METRICS, TABLE_3_METRICS, paper_result
from pdrec_fast.studies.variants import DataSet, Variant

if TYPE_CHECKING:
    import pandas as pd

_STARS = ((0.001, "\\*\\*\\*"), (0.01, "\\*\\*"), (0.05, "\\*"))
_LEGEND = (
    "Test split; mean over the seeds (standard deviation). Gains are relative to the model in "
    "the row's head, with the p of a paired t-test over users, whose figure is averaged over "
    "seeds, and of one over seeds; \\* p < .05, \\*\\* p < .01, \\*\\*\\* p < .001 over users. "
    "Where the data are called like the paper's, its figure follows and ours minus the paper's."
)


Row = tuple[Variant, str]  # with the baseline, for a gain over it, or ""


def format_tables(results: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """Markdown: for every data set and protocol the models with and without PDRec (Table 1), and
    where modules were added one by one, every variant of each encoder (Fig. 4 and 5, Table 3).

    Args:
        results, comparisons: the study's CSV files.
    """
    parts = ["# Results", _LEGEND]
    seeds = results.groupby("data")["seed"].nunique()
    # A table holds the rows of a data set under any preset.
    tables = {"results": results.assign(preset=""), "comparisons": comparisons.assign(preset="")}
    studies = Studies([], tables, [])
    for data, preset in results[["data", "preset"]].drop_duplicates().itertuples(index=False):
        parts.append(f"## {data}\n\nPreset {preset}, {seeds[data]} seed(s).")
        for protocol in results.loc[results["data"] == data, "protocol"].unique():
            parts.append(f"### {data}, protocol {protocol} ({PROTOCOLS[protocol]})")
            parts += _tables(studies, DataSet(data, ""), protocol)
    return "\n\n".join(parts) + "\n"


def _tables(studies: Studies, data_set: DataSet, protocol: str) -> list[str]:
    def markdown(variants: Sequence[Variant], metrics: Sequence[str]) -> str:
        lines = [["Model", *map(metric_name, metrics)], ["---"] * (1 + len(metrics))]
        for row in _with_gains(variants):
            cells = [_cell(studies, row, protocol, metric) for metric in metrics]
            lines.append([_head(*row), *cells])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    parts = []
    variants = [
        each for each in studies.variants(data_set) if len(studies.values(each, protocol, METRIC))
    ]
    in_table_1 = [each for each in variants if each.is_plain or each.is_full]
    by_encoder: dict[str, list[Variant]] = {}
    for variant in variants:
        if not variant.is_diffusion:
            by_encoder.setdefault(variant.model, []).append(variant)
    in_steps = [found for found in by_encoder.values() if not set(found) <= set(in_table_1)]
    if len(in_steps) < len(by_encoder) or len(by_encoder) != 1:
        parts.append(markdown(in_table_1, TABLE_1_METRICS))
    for found in in_steps:
        diffusions = [variant for variant in variants if variant.is_diffusion]
        parts.append(f"**{model_name(found[0].model)} and its variants**")
        parts.append(markdown([*diffusions, *found], TABLE_3_METRICS))
    return parts


def _with_gains(variants: Sequence[Variant]) -> list[Row]:
    """A row on the gain after each variant that improves on another of the table."""
    rows = []
    for variant in variants:
        rows.append((variant, ""))
        if not variant.is_plain:
            rows.append((variant, PLAIN))
            if variant.is_full and variant._replace(guide=OTHER_GUIDE) in variants:
                rows.append((variant, f"{FULL} by {OTHER_GUIDE}"))
        elif variant.model == GUIDE and any(each.model == "t-diffrec" for each in variants):
            rows.append((variant, "t-diffrec"))
    return rows


def _head(variant: Variant, baseline: str) -> str:
    name = model_name(variant.model)
    if baseline == PLAIN:
        return f"gain over {name}"
    if baseline:
        return f"gain over {MODEL_NAMES.get(baseline) or _modules_name(baseline)}"
    if variant.is_plain:
        return name
    by = "" if variant.guided_by_diffusion else f", guided by {model_name(variant.guide)}"
    return f"{name} {_modules_name(variant.modules)}{by}"


def _cell(studies: Studies, row: Row, protocol: str, metric: str) -> str:
    variant, baseline = row
    if baseline:
        comparison = studies.comparison(variant, protocol, metric, baseline)
        return "" if comparison is None else _gain(comparison)
    values = studies.values(variant, protocol, metric)
    mean, sd = values.mean(), values.std()
    paper = paper_result(variant, protocol, metric)
    text = f"{mean:.4f}" if math.isnan(sd) else f"{mean:.4f} ({sd:.4f})"
    return text if paper is None else f"{text}<br>paper {paper:.4f}, {mean - paper:+.4f}"


def _modules_name(text: str) -> str:
    """``hbr+nns by sasrec`` as ``+HBR+NNS by SASRec``."""
    modules, _, guide = text.partition(" by ")
    return f"+{modules.upper()}" + (f" by {model_name(guide)}" if guide else "")


def _gain(comparison: Any) -> str:
    stars = next((text for limit, text in _STARS if comparison.p_users < limit), "")
    gain = comparison.gain_percent
    shown = "–" if math.isnan(gain) else f"{gain:+.2f} %{stars}"
    return f"{shown}<br>p {_p(comparison.p_users)} users, {_p(comparison.p_seeds)} seeds"


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.2g}" if value >= 1e-4 else f"{value:.0e}"
