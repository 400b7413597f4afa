"""A study's results as Markdown, in the layout of the paper's tables, from its CSV files alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pdrec_fast.evaluation import PROTOCOLS
from pdrec_fast.studies.jobs import FULL, GUIDE, MODEL_NAMES, OTHER_GUIDE, PLAIN, WEIGHTINGS
from pdrec_fast.studies.labels import metric_name
from pdrec_fast.studies.paper import PROTOCOL, TABLE_1_METRICS, TABLE_3_METRICS, paper_value

if TYPE_CHECKING:
    import pandas as pd

_STARS = ((0.001, "\\*\\*\\*"), (0.01, "\\*\\*"), (0.05, "\\*"))
_LEGEND = (
    "Test split; mean over the seeds (standard deviation). Gains are relative to the model in "
    "the row's head, with the p of a paired t-test over users, whose figure is averaged over "
    "seeds, and of one over seeds; \\* p < .05, \\*\\* p < .01, \\*\\*\\* p < .001 over users. "
    "Where the data are called like the paper's, its figure follows and ours minus the paper's."
)


class Row(NamedTuple):
    """A row of a table: a variant of a model, or its gain over another."""

    model: str
    modules: str = PLAIN
    guide: str = ""
    baseline: str = ""  # for a gain

    @property
    def in_table_1(self) -> bool:
        return self.modules == PLAIN or (self.modules, self.guide) == (FULL, GUIDE)

    @property
    def head(self) -> str:
        name = MODEL_NAMES[self.model]
        if self.baseline:
            names = {PLAIN: name, **MODEL_NAMES}
            return f"gain over {names.get(self.baseline) or _modules_name(self.baseline)}"
        if self.modules == PLAIN:
            return name
        by = "" if self.guide == GUIDE else f", guided by {MODEL_NAMES[self.guide]}"
        return f"{name} {_modules_name(self.modules)}{by}"


Cells = Mapping[tuple[Row, str], str]  # of a row and a metric


def format_tables(results: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """Markdown: for every data set and protocol the models with and without PDRec (Table 1), and
    where modules were added one by one, every variant of each encoder (Fig. 4 and 5, Table 3).

    Args:
        results, comparisons: the study's CSV files.
    """
    parts = ["# Results", _LEGEND]
    seeds = results.groupby("data")["seed"].nunique()
    for data, preset in results[["data", "preset"]].drop_duplicates().itertuples(index=False):
        parts.append(f"## {data}\n\nPreset {preset}, {seeds[data]} seed(s).")
        for protocol in results.loc[results["data"] == data, "protocol"].unique():
            parts.append(f"### {data}, protocol {protocol} ({PROTOCOLS[protocol]})")
            chosen = "data == @data and protocol == @protocol and split == 'test'"
            parts += _tables(_cells(results.query(chosen), comparisons.query(chosen)))
    return "\n\n".join(parts) + "\n"


def _cells(results: pd.DataFrame, comparisons: pd.DataFrame) -> Cells:
    """The text of every cell, from the rows of one data set under one protocol."""
    cells = {}
    place = ["data", "protocol", *Row._fields[:3], "metric"]
    found = results.groupby(place, sort=False)["value"].agg(["mean", "std"])
    for data, protocol, *variant, metric, mean, sd in found.reset_index().itertuples(index=False):
        row = Row(*variant)
        text = f"{mean:.4f}" if math.isnan(sd) else f"{mean:.4f} ({sd:.4f})"
        if protocol == PROTOCOL and row.guide in ("", GUIDE):
            paper = paper_value(data, row.model, row.modules, metric)
            text += "" if paper is None else f"<br>paper {paper:.4f}, {mean - paper:+.4f}"
        cells[row, metric] = text
    for line in comparisons.itertuples(index=False):
        row = Row(line.model, line.modules, line.guide, line.baseline)
        cells.setdefault((row, line.metric), _gain(line))
    return cells


def _tables(cells: Cells) -> list[str]:
    parts = []
    variants = list(dict.fromkeys(row for row, _ in cells if not row.baseline))
    diffusions = [row for row in variants if row.model in WEIGHTINGS]
    by_encoder: dict[str, list[Row]] = {}
    for row in variants:
        if row.model not in WEIGHTINGS:
            by_encoder.setdefault(row.model, []).append(row)
    in_steps = [rows for rows in by_encoder.values() if not all(row.in_table_1 for row in rows)]
    if len(in_steps) < len(by_encoder) or len(by_encoder) != 1:
        parts.append(_markdown(cells, [row for row in variants if row.in_table_1], TABLE_1_METRICS))
    for rows in in_steps:
        parts.append(f"**{MODEL_NAMES[rows[0].model]} and its variants**")
        parts.append(_markdown(cells, [*diffusions, *rows], TABLE_3_METRICS))
    return parts


def _markdown(cells: Cells, variants: Sequence[Row], metrics: Sequence[str]) -> str:
    lines = [["Model", *map(metric_name, metrics)], ["---"] * (1 + len(metrics))]
    for row in _with_gains(variants):
        lines.append([row.head, *(cells.get((row, metric), "") for metric in metrics)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _with_gains(variants: Sequence[Row]) -> list[Row]:
    """A row on the gain after each row that improves on another of the table."""
    rows = []
    for row in variants:
        rows.append(row)
        if row.modules != PLAIN:
            rows.append(row._replace(baseline=PLAIN))
            if row == (row.model, FULL, GUIDE, "") and row._replace(guide=OTHER_GUIDE) in variants:
                rows.append(row._replace(baseline=f"{FULL} by {OTHER_GUIDE}"))
        elif row.model == GUIDE and any(other.model == "t-diffrec" for other in variants):
            rows.append(row._replace(baseline="t-diffrec"))
    return rows


def _modules_name(text: str) -> str:
    """``hbr+nns by sasrec`` as ``+HBR+NNS by SASRec``."""
    modules, _, guide = text.partition(" by ")
    return f"+{modules.upper()}" + (f" by {MODEL_NAMES[guide]}" if guide else "")


def _gain(comparison: Any) -> str:
    stars = next((text for limit, text in _STARS if comparison.p_users < limit), "")
    gain = comparison.gain_percent
    shown = "–" if math.isnan(gain) else f"{gain:+.2f} %{stars}"
    return f"{shown}<br>p {_p(comparison.p_users)} users, {_p(comparison.p_seeds)} seeds"


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.2g}" if value >= 1e-4 else f"{value:.0e}"
