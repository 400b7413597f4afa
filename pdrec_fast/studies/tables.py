"""A study's results as Markdown, in the layout of the paper's tables, from its CSV files alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pdrec_fast.evaluation import PROTOCOLS
from pdrec_fast.studies.comparisons import sample_sd
from pdrec_fast.studies.jobs import FULL, GUIDE, MODEL_NAMES, OTHER_GUIDE, PLAIN, WEIGHTINGS
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


@dataclass(frozen=True)
class Row:
    """Of a table: a variant of a model, or its gain over another."""

    model: str
    modules: str = PLAIN
    guide: str = ""
    baseline: str = ""  # for a gain


@dataclass(frozen=True)
class Selection:
    """One data set's rows of both files under one protocol, on the test split."""

    data: str
    protocol: str
    results: pd.DataFrame
    comparisons: pd.DataFrame

    def variants(self) -> list[Row]:
        """In the order of the file."""
        found = self.results[["model", "modules", "guide"]].drop_duplicates()
        return [Row(*values) for values in found.itertuples(index=False)]

    def cell(self, row: Row, metric: str) -> str:
        rows = _where(self.comparisons if row.baseline else self.results, row, metric)
        if len(rows) == 0:
            return ""
        return _gain(rows.iloc[0]) if row.baseline else self._value(row, metric, rows["value"])

    def _value(self, row: Row, metric: str, values: pd.Series) -> str:
        mean, sd = float(values.mean()), sample_sd(values.to_numpy())
        text = f"{mean:.4f}" if math.isnan(sd) else f"{mean:.4f} ({sd:.4f})"
        paper = None
        if self.protocol == PROTOCOL and row.guide in ("", GUIDE):
            paper = paper_value(self.data, row.model, row.modules, metric)
        return text if paper is None else f"{text}<br>paper {paper:.4f}, {mean - paper:+.4f}"


def format_tables(results: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """Markdown: for every data set and protocol the models with and without PDRec (Table 1), and
    where modules were added one by one, every variant of each encoder (Fig. 4 and 5, Table 3).

    Args:
        results, comparisons: the study's CSV files.
    """
    parts = ["# Results", _LEGEND]
    seeds = results.groupby("data", sort=False)["seed"].nunique()
    for data, preset in results[["data", "preset"]].drop_duplicates().itertuples(index=False):
        parts.append(f"## {data}\n\nPreset {preset}, {seeds[data]} seed(s).")
        for protocol in results.loc[results["data"] == data, "protocol"].unique():
            chosen = [
                frame[
                    (frame["data"] == data)
                    & (frame["protocol"] == protocol)
                    & (frame["split"] == "test")
                ]
                for frame in (results, comparisons)
            ]
            parts += _tables(Selection(data, protocol, *chosen))
    return "\n\n".join(parts) + "\n"


def _tables(selection: Selection) -> list[str]:
    head = f"### {selection.data}, protocol {selection.protocol}"
    parts = [f"{head} ({PROTOCOLS[selection.protocol]})"]
    variants = selection.variants()
    diffusions = [row for row in variants if row.model in WEIGHTINGS]
    encoders = list(dict.fromkeys(row.model for row in variants if row.model not in WEIGHTINGS))
    taken_apart = []
    for encoder in encoders:
        rows = [row for row in variants if row.model == encoder]
        if any(not _in_table_1(row) for row in rows):
            taken_apart.append(rows)
    if len(taken_apart) < len(encoders) or len(encoders) != 1:
        in_table = [row for row in variants if _in_table_1(row)]
        parts.append(_markdown(selection, _with_gains(in_table), TABLE_1_METRICS))
    for rows in taken_apart:
        parts.append(f"**{MODEL_NAMES[rows[0].model]} and its variants**")
        parts.append(_markdown(selection, _with_gains([*diffusions, *rows]), TABLE_3_METRICS))
    return parts


def _in_table_1(row: Row) -> bool:
    return row.modules == PLAIN or (row.modules, row.guide) == (FULL, GUIDE)


def _with_gains(rows: Sequence[Row]) -> list[Row]:
    """A row on the gain after each row that improves on another of the table."""
    found = []
    for row in rows:
        found.append(row)
        if row.modules != PLAIN:
            found.append(Row(row.model, row.modules, row.guide, PLAIN))
            without_diffusion = Row(row.model, FULL, OTHER_GUIDE)
            if (row.modules, row.guide) == (FULL, GUIDE) and without_diffusion in rows:
                found.append(Row(row.model, FULL, GUIDE, f"{FULL} by {OTHER_GUIDE}"))
        elif row.model == GUIDE and any(of.model == "t-diffrec" for of in rows):
            found.append(Row(row.model, baseline="t-diffrec"))
    return found


def _markdown(selection: Selection, rows: Sequence[Row], metrics: Sequence[str]) -> str:
    heads = [metric.upper().replace("NDCG", "N") for metric in metrics]
    lines = [["Model", *heads], ["---"] * (1 + len(metrics))]
    lines += [[_head(row), *(selection.cell(row, metric) for metric in metrics)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _head(row: Row) -> str:
    if row.baseline:
        shown = {PLAIN: MODEL_NAMES[row.model], **MODEL_NAMES}.get(
            row.baseline, _modules(row.baseline)
        )
        return f"gain over {shown}"
    if row.modules == PLAIN:
        return MODEL_NAMES[row.model]
    by = "" if row.guide == GUIDE else f", guided by {MODEL_NAMES[row.guide]}"
    return f"{MODEL_NAMES[row.model]} {_modules(row.modules)}{by}"


def _modules(text: str) -> str:
    """``hbr+nns by sasrec`` as ``+HBR+NNS by SASRec``."""
    modules, _, guide = text.partition(" by ")
    return f"+{modules.upper()}" + (f" by {MODEL_NAMES[guide]}" if guide else "")


def _where(frame: pd.DataFrame, row: Row, metric: str) -> pd.DataFrame:
    wanted = (
        (frame["model"] == row.model)
        & (frame["modules"] == row.modules)
        & (frame["guide"] == row.guide)
        & (frame["metric"] == metric)
    )
    if row.baseline:
        wanted &= frame["baseline"] == row.baseline
    return frame[wanted]


def _gain(comparison: pd.Series) -> str:
    p_users = float(comparison["p_users"])
    stars = next((text for limit, text in _STARS if p_users < limit), "")
    gain = float(comparison["gain_percent"])
    shown = "–" if math.isnan(gain) else f"{gain:+.2f} %{stars}"
    return f"{shown}<br>p {_p(p_users)} users, {_p(float(comparison['p_seeds']))} seeds"


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.2g}" if value >= 1e-4 else f"{value:.0e}"
