"""The tables of a report, as text that its template lays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pdrec_fast.studies.figures import histories
from pdrec_fast.studies.jobs import PLAIN
from pdrec_fast.studies.labels import (
    METRIC,
    METRIC_NAME,
    figure,
    interval,
    metric_name,
    model_name,
    moment,
    number,
    p_value,
    percent,
    with_spread,
)
from pdrec_fast.studies.load import Studies, StudyInfo
from pdrec_fast.studies.paper import TABLE_1_METRICS, TABLE_3_METRICS, paper_result
from pdrec_fast.studies.statements import significant
from pdrec_fast.studies.variants import VARIANT, DataSet, Variant, in_order

if TYPE_CHECKING:
    import pandas as pd


class Cell(NamedTuple):
    """The text of a cell, smaller lines below, and a class of the style sheet."""

    text: str
    notes: Sequence[str] = ()
    kind: str = ""


class Table(NamedTuple):
    """Rows are (name, cells); ``head`` names their columns, the first one too."""

    caption: str
    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def data_sets_table(studies: Studies) -> Table:
    """The sizes that study.json has of every data set."""
    sizes = ("users", "items", "records")
    entries = {found: entry for info in studies.infos for found, entry in info.data_sets.items()}
    rows = [
        (found.name, [Cell(found.preset), *(Cell(_size(entry.get(key))) for key in sizes)])
        for found, entry in entries.items()
    ]
    return Table("Data sets", ["data set", "preset", *sizes], rows)


def _size(value: object) -> str:
    return number(value) if isinstance(value, int) else "not recorded"


def studies_table(infos: Sequence[StudyInfo]) -> Table:
    """What study.json says, a column per directory."""
    paths = [info.directory.resolve() for info in infos]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.name}" for path in paths]
    keys = ("study", "encoders", "seeds", "settings", "command", "machine", "version", "torch")
    rows = [
        ("pdrec_fast" if key == "version" else key, [info.text(key) for info in infos])
        for key in keys
    ]
    rows.append(("finished", [_finished(info) for info in infos]))
    cells = [(name, [Cell(text, kind="words") for text in texts]) for name, texts in rows]
    return Table("Studies", ["", *names], cells)


def _finished(info: StudyInfo) -> str:
    """A date that cannot be read stands as it is."""
    if "finished" in info.values and not info.values["finished"]:
        return "not yet"
    text = info.text("finished")
    try:
        when = datetime.fromisoformat(text).astimezone(timezone.utc)
    except ValueError:
        return text
    return when.strftime("%Y-%m-%d %H:%M UTC")


def results_table(studies: Studies, data_set: DataSet, protocol: str) -> Table | None:
    """The paper's Table 1, turned so that it fits a page: models down, metrics across."""
    with_results = _with_results(studies, data_set, protocol)
    if not with_results:
        return None
    variants = [each for each in with_results if each.is_plain or each.is_full]
    rows = []
    for variant in variants:
        cells = [_value(studies, variant, protocol, metric, variants) for metric in TABLE_1_METRICS]
        rows.append((variant.name, cells))
        if variant.is_full:
            gains = [_gain(studies, variant, protocol, metric) for metric in TABLE_1_METRICS]
            rows.append((f"gain over {model_name(variant.model)}", gains))
    caption = (
        f"Test split of {data_set.name}, protocol {protocol}: mean ± standard deviation over seeds."
    )
    return Table(caption, ["model", *map(metric_name, TABLE_1_METRICS)], rows)


def variants_table(studies: Studies, data_set: DataSet, protocol: str) -> Table | None:
    """Every variant down, the metrics of the paper's Table 3 across."""
    variants = _with_results(studies, data_set, protocol)
    if not variants:
        return None
    metrics = [
        metric
        for metric in TABLE_3_METRICS
        if any(len(studies.values(variant, protocol, metric)) for variant in variants)
    ]
    rows = []
    for variant in variants:
        has_gain = not variant.is_diffusion and not variant.is_plain
        gain = _gain(studies, variant, protocol, METRIC) if has_gain else Cell("")
        cells = [_value(studies, variant, protocol, metric, variants) for metric in metrics]
        rows.append((variant.name, [gain, *cells]))
    caption = (
        f"Every variant on the test split of {data_set.name}, protocol {protocol}; gain in "
        f"{METRIC_NAME} over the same encoder alone."
    )
    return Table(caption, ["model", "gain", *map(metric_name, metrics)], rows)


def _with_results(studies: Studies, data_set: DataSet, protocol: str) -> list[Variant]:
    variants = in_order(studies.variants(data_set))
    return [variant for variant in variants if len(studies.values(variant, protocol, METRIC))]


def _value(
    studies: Studies, variant: Variant, protocol: str, metric: str, others: Sequence[Variant]
) -> Cell:
    """The mean over seeds beside the paper's; bold where no other of the encoder is better."""
    values = studies.values(variant, protocol, metric)
    mean, paper = values.mean(), paper_result(variant, protocol, metric)
    notes = []
    if paper is not None and len(values):
        notes = [f"paper {figure(paper)}, {figure(mean - paper, sign=True)}"]
    rivals = [other for other in others if other.model == variant.model]
    means = [studies.values(other, protocol, metric).mean() for other in rivals]
    best = len(rivals) > 1 and mean >= max(means)
    return Cell(with_spread(mean, values.std()), notes, "best" if best else "")


def _gain(studies: Studies, variant: Variant, protocol: str, metric: str) -> Cell:
    """Over the plain encoder, beside the paper's; tinted where it is significant."""
    row = studies.comparison(variant, protocol, metric)
    if row is None:
        return Cell("–")
    notes = [f"{p_value(row.p_seeds)} seeds", f"{p_value(row.p_users)} users"]
    ours, plain = (paper_result(each, protocol, metric) for each in (variant, variant.plain))
    if ours is not None and plain is not None:
        notes.append(f"paper {percent(100 * (ours / plain - 1))}")
    tint = ("up" if row.gain_percent > 0 else "down") if significant(row) else ""
    return Cell(percent(row.gain_percent), notes, tint)


def popularity_table(studies: Studies, data_set: DataSet, protocol: str) -> Table | None:
    """Variants down, the targets' training records across: mean over seeds and, below, the change
    over the same encoder alone, over the seeds that both have."""
    rows = studies.rows("popularity", data_set)
    rows = rows[rows["protocol"] == protocol]
    if rows.empty:
        return None
    place = ["records_from", "records_to"]
    cases = rows.groupby(place)["cases"].last()
    found = rows.groupby([*VARIANT, *place])["value"].agg(["mean", "std"])
    alone = rows.loc[rows["modules"] == PLAIN, ["model", "seed", *place, "value"]]
    pairs = rows.merge(alone, on=["model", "seed", *place], suffixes=("", "_alone"))
    means = pairs.groupby([*VARIANT, *place])[["value", "value_alone"]].mean()
    gains = 100 * (means["value"] / means["value_alone"] - 1)
    lines = []
    for variant in in_order({Variant(*key[:5]) for key in found.index}):
        texts = found.loc[tuple(variant)].reindex(cases.index)
        changes = gains.get(tuple(variant)) if not variant.is_plain else None
        lines.append((variant.name, _popularity_cells(texts, changes)))
    shares = 100 * cases / cases.sum()
    heads = [f"{interval(*bounds)} ({share:.0f} %)" for bounds, share in shares.items()]
    caption = (
        f"{metric_name(rows['metric'].iloc[0])} on the test split of {data_set.name}, "
        f"protocol {protocol}, by the target's records in training (in brackets: share of the "
        "cases); below, the change over the same encoder alone."
    )
    return Table(caption, ["model", *heads], lines)


def _popularity_cells(values: pd.DataFrame, changes: pd.Series | None) -> list[Cell]:
    cells = []
    for bounds, mean, sd in values.itertuples():
        change = np.nan if changes is None else changes.get(bounds, np.nan)
        notes = [percent(change)] if np.isfinite(change) else []
        cells.append(Cell(with_spread(mean, sd), notes))
    return cells


def times_table(studies: Studies, data_set: DataSet) -> Table | None:
    """The best validation of each variant and when, its epochs and seconds in all."""
    rows = studies.rows("curves", data_set)
    if rows.empty:
        return None
    runs = rows.groupby([*VARIANT, "seed"])
    validated = rows[np.isfinite(rows["valid"])]
    best_rows = validated.groupby([*VARIANT, "seed"])["valid"].idxmax()
    bests = rows.loc[best_rows].groupby(VARIANT)
    best = bests["valid"].agg(["mean", "std"]).assign(seconds_to_best=bests["seconds"].mean())
    whole = runs.agg(epochs=("epoch", "size"), seconds=("seconds", "last")).groupby(VARIANT).mean()
    table = best.join(whole, how="right")
    lines = []
    for variant in in_order(Variant(*key) for key in table.index):
        row = table.loc[tuple(variant)]
        texts = [
            with_spread(row["mean"], row["std"]),
            number(row["seconds_to_best"], 1),
            number(row["epochs"]),
            number(row["seconds"], 1),
        ]
        lines.append((variant.name, list(map(Cell, texts))))
    caption = (
        f"Training on {data_set.name}: best validation and when, epochs and seconds in all; "
        "means over seeds."
    )
    heads = ["model", f"best {METRIC_NAME}", "seconds to it", "epochs", "seconds"]
    return Table(caption, heads, lines)


def histories_table(studies: Studies, data_set: DataSet) -> Table:
    """The behaviours of the users that the figure shows."""
    users: Mapping[str, pd.DataFrame] = histories(studies, data_set)
    rows = []
    for user, behaviours in users.items():
        for row in behaviours.itertuples():
            numbers = [f"{row.preference:.4g}", str(row.rank), f"{row.weight:.4f}"]
            texts = [str(row.position), row.item, moment(row.timestamp), *numbers]
            rows.append((user, list(map(Cell, texts))))
    seed = studies.rows("hbr", data_set)["seed"].min()
    head = ["user", "position", "item", "when", "preference", "rank", "weight"]
    return Table(f"HBR weights on {data_set.name}, seed {seed}", head, rows)
