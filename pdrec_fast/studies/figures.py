"""The figures of a report; each function gives an ``<svg>`` element, or None without its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pdrec_fast.studies.jobs import GUIDE, PLAIN
from pdrec_fast.studies.load import Behaviour, DataSet, Epoch, Studies, Variant
from pdrec_fast.studies.ranks import known_and_cold
from pdrec_fast.studies.svg import new_figure, styled, to_svg
from pdrec_fast.studies.wording import (
    data_name,
    figure,
    guided_by_diffusion,
    in_order,
    is_diffusion,
    is_full,
    mean_and_sd,
    metric_name,
    model_name,
    modules_name,
    variant_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRIC = "ndcg@10"
WIDTH = 8.6
# Okabe and Ito's palette, without what is too light for lines and text on white.
_COLOURS = {
    "gru4rec": "#007a5e",
    "sasrec": "#0072b2",
    "cl4srec": "#d55e00",
    "ti-diffrec": "#9c4a7c",
    "t-diffrec": "#767676",
    "diffrec": "#a98600",
}
_OTHER_COLOUR = "#333333"
_MARKERS = {"gru4rec": "^", "sasrec": "o", "cl4srec": "s"}
_PAIRED = "#555555"


def colour_of(model: str) -> str:
    return _COLOURS.get(model, _OTHER_COLOUR)


@styled
def draw_ablation(studies: Studies, protocol: str) -> str | None:
    """One panel per data set: every variant of an encoder, its seeds and their spread (Fig. 4)."""
    panels = {
        data_set: rows
        for data_set in studies.data_sets
        if (rows := ablated(studies, data_set, protocol))
    }
    if not panels:
        return None
    heights = [0.9 + 0.36 * len(variants) for variants in panels.values()]
    drawing = new_figure(WIDTH, sum(heights))
    grid = drawing.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (data_set, variants) in zip(grid, panels.items(), strict=True):
        values = [list(studies.values(of, protocol, METRIC).values()) for of in variants]
        _dots(axes, values, alone=variants[0].modules == PLAIN)
        axes.set_yticks(range(len(variants)), [variant_name(of) for of in variants])
        axes.set_title(data_name(data_set))
        axes.set_xlabel(f"{metric_name(METRIC)} on test (this axis does not start at 0)")
    return to_svg(
        drawing,
        f"ablation-{protocol}",
        "Ablation",
        f"{metric_name(METRIC)} of an encoder alone and with each set of modules; a dot per seed, "
        "a diamond for the mean and a line of one standard deviation to each side.",
    )


def ablated(studies: Studies, data_set: DataSet, protocol: str) -> list[Variant]:
    """Variants of the encoder with most of them, if any but alone and with all modules."""
    by_model: dict[str, list[Variant]] = {}
    for variant in in_order(studies.variants(data_set)):
        if not is_diffusion(variant) and studies.values(variant, protocol, METRIC):
            by_model.setdefault(variant.model, []).append(variant)
    most = max(by_model.values(), key=lambda of: (len(of), of[0].model == "sasrec"), default=[])
    return most if any(of.modules != PLAIN and not is_full(of) for of in most) else []


def _dots(axes: Axes, rows: Sequence[Sequence[float]], *, alone: bool) -> None:
    """A row of dots from top to bottom; if ``alone``, the first is what to compare with."""
    for place, values in enumerate(rows):
        mean, sd = mean_and_sd(values)
        colour = _PAIRED if alone and place == 0 else _COLOURS["sasrec"]
        axes.plot(
            values, [place + 0.2] * len(values), "o", markersize=3.5, color=colour, alpha=0.55
        )
        if not math.isnan(sd):
            axes.plot([mean - sd, mean + sd], [place, place], color=colour, linewidth=1.8)
        axes.plot(mean, place, "D", markersize=6, color=colour)
        axes.annotate(
            figure(mean),
            (mean, place),
            xytext=(0, 5.5),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    if alone:
        axes.axvline(mean_and_sd(rows[0])[0], color=_PAIRED, linewidth=1, linestyle="--", zorder=0)
    axes.set_ylim(len(rows) - 0.5, -0.75)
    axes.margins(x=0.08)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


@styled
def draw_gains(studies: Studies, protocol: str) -> str | None:
    """One panel per data set: what modules add to each encoder, in percent of it (Fig. 5)."""
    panels = {
        data_set: rows
        for data_set in studies.data_sets
        if (rows := _gains(studies, data_set, protocol))
    }
    if not panels:
        return None
    heights = [0.8 + 0.3 * len(rows) for rows in panels.values()]
    drawing = new_figure(WIDTH, sum(heights))
    grid = drawing.subplots(len(panels), 1, squeeze=False, height_ratios=heights, sharex=True)[:, 0]
    for axes, (data_set, rows) in zip(grid, panels.items(), strict=True):
        for place, (variant, gain, by_seed) in enumerate(rows):
            colour, marker = colour_of(variant.model), _MARKERS.get(variant.model, "D")
            axes.plot([0, gain], [place, place], color=colour, linewidth=1.2, alpha=0.6)
            axes.plot(
                by_seed, [place + 0.2] * len(by_seed), ".", markersize=5, color=colour, alpha=0.5
            )
            axes.plot(gain, place, marker, markersize=7, color=colour)
        names = [f"{model_name(of.model)} {modules_name(of)}" for of, _, _ in rows]
        axes.set_yticks(range(len(rows)), names)
        for label, (variant, _, _) in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color(colour_of(variant.model))
        axes.axvline(0, color=_PAIRED, linewidth=1)
        axes.tick_params(labelbottom=True)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(data_name(data_set))
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
    grid[-1].set_xlabel(f"gain in {metric_name(METRIC)} over the encoder alone, percent")
    return to_svg(
        drawing,
        f"gains-{protocol}",
        "Gains of every encoder",
        f"Relative change of {metric_name(METRIC)} from an encoder alone to the same with modules, "
        "for each encoder and data set; small dots are single seeds.",
    )


def _gains(
    studies: Studies, data_set: DataSet, protocol: str
) -> list[tuple[Variant, float, list[float]]]:
    """(variant, gain of the mean, gain of each seed that both have), in percent."""
    rows = []
    for variant in in_order(studies.variants(data_set)):
        comparison = studies.comparison(variant, protocol, METRIC)
        if comparison is None or is_diffusion(variant) or not guided_by_diffusion(variant):
            continue
        plain = variant._replace(modules=PLAIN, guide="")
        before = studies.values(plain, protocol, METRIC)
        after = studies.values(variant, protocol, METRIC)
        by_seed = [100 * (after[seed] / before[seed] - 1) for seed in after if before.get(seed)]
        if math.isfinite(comparison.gain_percent):
            rows.append((variant, comparison.gain_percent, by_seed))
    return rows


@styled
def draw_training(studies: Studies) -> str | None:
    """One panel per data set: the validation metric against seconds of training."""
    panels = {
        data_set: lines for data_set in studies.data_sets if (lines := _lines(studies, data_set))
    }
    if not panels:
        return None
    drawing = new_figure(WIDTH, 3.6 * len(panels))
    grid = drawing.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (data_set, lines) in zip(grid, panels.items(), strict=True):
        for variant, seeds in lines.items():
            _line(axes, variant, seeds)
        _log_axis(axes, "{x:g}")
        axes.set_title(data_name(data_set))
        axes.set_xlabel("seconds of training (log scale)")
        axes.set_ylabel(f"{metric_name(METRIC)} on validation")
        _label_lines(axes, lines)
    return to_svg(
        drawing,
        "training",
        "Validation against wall-clock",
        f"{metric_name(METRIC)} on validation over seconds of training, a line per model; encoders "
        "alone are dashed, PDRec is solid.",
    )


def _log_axis(axes: Axes, template: str) -> None:
    """Plain numbers, also between the powers of ten where there are few of those."""
    from matplotlib.ticker import LogFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(template)
    axes.xaxis.set_minor_formatter(LogFormatter())


def _lines(studies: Studies, data_set: DataSet) -> dict[Variant, list[list[Epoch]]]:
    """Variant -> validated epochs of each seed, the seed with the middle best value first."""
    found: dict[Variant, dict[int, list[Epoch]]] = {}
    for row in studies.curves:
        shown = row.modules == PLAIN or is_full(row.variant)
        if row.data_set == data_set and shown and math.isfinite(row.valid) and row.seconds > 0:
            found.setdefault(row.variant, {}).setdefault(row.seed, []).append(row)
    return {variant: _middle_first(list(found[variant].values())) for variant in in_order(found)}


def _middle_first(seeds: list[list[Epoch]]) -> list[list[Epoch]]:
    by_best = sorted(seeds, key=lambda rows: max(row.valid for row in rows))
    return [by_best.pop((len(by_best) - 1) // 2), *by_best]


def _line(axes: Axes, variant: Variant, seeds: list[list[Epoch]]) -> None:
    style = "-" if is_full(variant) or is_diffusion(variant) else (0, (4, 2))
    for place, rows in enumerate(seeds):
        axes.plot(
            [row.seconds for row in rows],
            [row.valid for row in rows],
            color=colour_of(variant.model),
            linestyle=style,
            linewidth=1.8 if place == 0 else 0.7,
            alpha=1 if place == 0 else 0.25,
            marker="." if len(rows) == 1 else None,
        )


def _label_lines(axes: Axes, lines: dict[Variant, list[list[Epoch]]]) -> None:
    """Names to the right of the panel, pushed apart where lines end close to each other."""
    from matplotlib.transforms import blended_transform_factory

    low, high = axes.get_ylim()
    gap = 0.052 * (high - low)
    ends = sorted(((seeds[0][-1], variant) for variant, seeds in lines.items()), key=_end)
    places: list[float] = []
    for end, _ in ends:
        places.append(max(end.valid, places[-1] + gap) if places else end.valid)
    excess = max(0.0, places[-1] - high)
    for i in range(len(places) - 1, -1, -1):
        ceiling = places[-1] - excess if i == len(places) - 1 else places[i + 1] - gap
        places[i] = min(places[i], ceiling)
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    for (end, variant), place in zip(ends, places, strict=True):
        axes.annotate(
            variant_name(variant),
            (end.seconds, end.valid),
            xytext=(1.03, place),
            textcoords=beside,
            color=colour_of(variant.model),
            fontsize=8.5,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": colour_of(variant.model),
                "alpha": 0.35,
            },
        )
    axes.set_ylim(low, high)


def _end(line: tuple[Epoch, Variant]) -> float:
    return line[0].valid


@styled
def draw_ranks(studies: Studies) -> str | None:
    """A column per data set: where the test item ranks, known items above cold ones."""
    panels = {
        data_set: found
        for data_set in studies.data_sets
        if (found := known_and_cold(studies, data_set))
    }
    if not panels:
        return None
    drawing = new_figure(WIDTH, 2.3 * 2 * len(panels))
    grid = drawing.subplots(2 * len(panels), 1)
    for column, (data_set, groups) in enumerate(panels.items()):
        for axes, group in zip(grid[2 * column : 2 * column + 2], groups, strict=True):
            colour = _COLOURS["sasrec"] if group.known else _COLOURS["cl4srec"]
            edges = [*(left for left, _ in group.bins), group.bins[-1][1] + 1]
            axes.stairs(group.shares, edges, fill=True, color=colour, alpha=0.75)
            if group.chance is not None:
                axes.stairs(
                    group.chance, edges, color=_PAIRED, linestyle="--", label="in random order"
                )
                axes.legend(loc="upper left", fontsize=8)
            _log_axis(axes, "{x:,.0f}")
            axes.yaxis.set_major_formatter("{x:.0f} %")
            axes.set_title(f"{data_name(data_set)}: {group.name}")
            axes.set_ylabel("cases")
            axes.set_ylim(bottom=0)
        axes.set_xlabel("rank of the test item in the whole corpus, 1 is best (log scale)")
    return to_svg(
        drawing,
        "ranks",
        f"Ranks under {model_name(GUIDE)}",
        "Share of the test cases by the rank of the test item, for items that occur in training "
        "and, apart, for cold ones; dashed: what a random order gives.",
    )


@styled
def draw_histories(studies: Studies, data_set: DataSet) -> str | None:
    """One panel per user of a data set: HBR's weight of each behaviour, in order of time."""
    users = histories(studies, data_set)
    if not users:
        return None
    drawing = new_figure(WIDTH, 2.0 * len(users))
    grid = drawing.subplots(len(users), 1, squeeze=False)[:, 0]
    for axes, rows in zip(grid, users, strict=True):
        _stems(axes, rows)
    grid[-1].set_xlabel("place in the history, and when")
    name = data_name(data_set)
    return to_svg(
        drawing,
        f"histories-{studies.data_sets.index(data_set)}",
        f"HBR weights on {name}",
        f"Weights that HBR gives to the behaviours of {len(users)} users of {name}; 1 is the "
        "weight without HBR.",
    )


def histories(studies: Studies, data_set: DataSet) -> list[list[Behaviour]]:
    """Behaviours in order, per user, of the first seed."""
    rows = [row for row in studies.behaviours if row.data_set == data_set]
    first = min((row.seed for row in rows), default=0)
    users: dict[str, list[Behaviour]] = {}
    for row in rows:
        if row.seed == first:
            users.setdefault(row.user, []).append(row)
    return [sorted(rows, key=lambda row: row.position) for rows in users.values()]


def _stems(axes: Axes, rows: Sequence[Behaviour]) -> None:
    weights = [row.weight for row in rows]
    places = range(1, len(rows) + 1)
    colour = _COLOURS["sasrec"]
    axes.vlines(places, 0, weights, color=colour, linewidth=1.6)
    axes.plot(places, weights, "o", markersize=4, color=colour)
    axes.axhline(1, color=_PAIRED, linewidth=1, linestyle="--")
    step = max(1, math.ceil(len(rows) / 8))
    ticks = list(places)[::step]
    labels = [f"{rows[place - 1].position}\n{moment(rows[place - 1])}" for place in ticks]
    axes.set_xticks(ticks, labels, fontsize=8)
    axes.set_xlim(0.3, len(rows) + 0.7)
    axes.set_ylim(0, max(1.0, *weights) * 1.12)
    axes.set_ylabel("weight")
    axes.set_title(f"{data_name(rows[0].data_set)}: user {rows[0].user}, {len(rows)} behaviours")
    axes.grid(axis="x", visible=False)


def moment(behaviour: Behaviour) -> str:
    """The date where the timestamp looks like Unix seconds, else the number, "" without one."""
    time = behaviour.timestamp
    if math.isnan(time):
        return ""
    if 1e8 < time < 1e10:
        return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d")
    return f"{time:g}"
