"""The figures of a report; each function gives an image, or None without its rows."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pdrec_fast.studies.jobs import GUIDE, PLAIN
from pdrec_fast.studies.labels import METRIC, METRIC_NAME, figure, model_name, moment
from pdrec_fast.studies.load import Studies
from pdrec_fast.studies.ranks import RankGroup, known_and_cold
from pdrec_fast.studies.variants import VARIANT, DataSet, Variant, in_order

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_WIDTH = 8.6
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
_STYLE: Any = {  # matplotlib types its keys one by one
    "axes.axisbelow": True,
    "axes.edgecolor": "#767676",
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    # The first comes with matplotlib, so that the layout is everywhere alike.
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "pdrec_fast",
    "text.parse_math": False,  # a name may hold dollar signs
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "ytick.major.size": 0,
}


class Image(NamedTuple):
    """An SVG as a data URL and, in words, what is to be seen."""

    source: str
    description: str


def _draw(
    panels: Sequence[tuple[str, Any]],
    height: Callable[[Any], float],
    draw: Callable[[Axes, Any], None],
    description: str,
    *,
    x_label: str = "",
    **options: Any,
) -> Image | None:
    """Panels of a title and rows, one below the other, ``height(rows)`` inches high; None without
    any. In the report's style, whatever the user's matplotlibrc says, without a window system, and
    the same bytes for the same rows."""
    if not panels:
        return None
    import matplotlib
    from matplotlib.figure import Figure

    heights = [height(rows) for _, rows in panels]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        drawing = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
        grid = drawing.subplots(len(heights), 1, squeeze=False, height_ratios=heights, **options)
        for axes, (title, rows) in zip(grid[:, 0], panels, strict=True):
            draw(axes, rows)
            axes.set_title(title)
        if x_label:
            grid[-1, 0].set_xlabel(x_label)
        stream = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.savefig(stream, format="svg", metadata=nothing)
    text = base64.b64encode(stream.getvalue()).decode()
    return Image(f"data:image/svg+xml;base64,{text}", description)


def _panels(studies: Studies, find: Callable[[DataSet], Any]) -> list[tuple[str, Any]]:
    """(name, what is to be drawn) of each data set that has something."""
    return [(found.name, rows) for found in studies.data_sets if (rows := find(found))]


def _colour(model: str) -> str:
    return _COLOURS.get(model, _OTHER_COLOUR)


def _only_vertical_grid(axes: Axes) -> None:
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def draw_ablation(studies: Studies, protocol: str) -> Image | None:
    """One panel per data set: every variant of an encoder, its seeds and their spread (Fig. 4)."""

    def draw(axes: Axes, variants: list[Variant]) -> None:
        values = [studies.values(variant, protocol, METRIC) for variant in variants]
        _dots(axes, values, alone=variants[0].is_plain)
        axes.set_yticks(range(len(variants)), [variant.name for variant in variants])
        axes.set_xlabel(f"{METRIC_NAME} on test (this axis does not start at 0)")

    return _draw(
        _panels(studies, lambda data_set: ablated(studies, data_set, protocol)),
        lambda variants: 0.9 + 0.36 * len(variants),
        draw,
        f"{METRIC_NAME} of an encoder alone and with each set of modules; a dot per seed, a "
        "diamond for the mean and a line of one standard deviation to each side.",
    )


def ablated(studies: Studies, data_set: DataSet, protocol: str) -> list[Variant]:
    """Variants of the encoder with most of them, if any but alone and with all modules."""
    by_model: dict[str, list[Variant]] = {}
    for variant in in_order(studies.variants(data_set)):
        if not variant.is_diffusion and len(studies.values(variant, protocol, METRIC)):
            by_model.setdefault(variant.model, []).append(variant)
    most = max(
        by_model.values(),
        key=lambda variants: (len(variants), variants[0].model == "sasrec"),
        default=[],
    )
    return most if any(each.modules != PLAIN and not each.is_full for each in most) else []


def _dots(axes: Axes, rows: Sequence[pd.Series], *, alone: bool) -> None:
    """A row of dots from top to bottom; if ``alone``, the first is what to compare with."""
    for place, values in enumerate(rows):
        mean, sd = values.mean(), values.std()
        colour = _PAIRED if alone and place == 0 else _COLOURS["sasrec"]
        beside = [place + 0.2] * len(values)
        axes.plot(values, beside, "o", markersize=3.5, color=colour, alpha=0.55)
        if not math.isnan(sd):
            axes.plot([mean - sd, mean + sd], [place, place], color=colour, linewidth=1.8)
        axes.plot(mean, place, "D", markersize=6, color=colour)
        above: Any = {"xytext": (0, 5.5), "textcoords": "offset points", "ha": "center"}
        axes.annotate(figure(mean), (mean, place), fontsize=8, **above)
    if alone:
        axes.axvline(rows[0].mean(), color=_PAIRED, linewidth=1, linestyle="--", zorder=0)
    axes.set_ylim(len(rows) - 0.5, -0.75)
    axes.margins(x=0.08)
    _only_vertical_grid(axes)


def draw_gains(studies: Studies, protocol: str) -> Image | None:
    """One panel per data set: what modules add to each encoder, in percent of it (Fig. 5)."""

    def draw(axes: Axes, rows: list[tuple[Variant, float, pd.Series]]) -> None:
        for place, (variant, gain, by_seed) in enumerate(rows):
            colour, marker = _colour(variant.model), _MARKERS.get(variant.model, "D")
            axes.plot([0, gain], [place, place], color=colour, linewidth=1.2, alpha=0.6)
            beside = [place + 0.2] * len(by_seed)
            axes.plot(by_seed, beside, ".", markersize=5, color=colour, alpha=0.5)
            axes.plot(gain, place, marker, markersize=7, color=colour)
        names = [f"{model_name(variant.model)} {variant.modules_name}" for variant, _, _ in rows]
        axes.set_yticks(range(len(rows)), names)
        for label, (variant, _, _) in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color(_colour(variant.model))
        axes.axvline(0, color=_PAIRED, linewidth=1)
        axes.tick_params(labelbottom=True)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _only_vertical_grid(axes)

    return _draw(
        _panels(studies, lambda data_set: _gains(studies, data_set, protocol)),
        lambda rows: 0.8 + 0.3 * len(rows),
        draw,
        f"Relative change of {METRIC_NAME} from an encoder alone to the same with modules, for "
        "each encoder and data set; small dots are single seeds.",
        x_label=f"gain in {METRIC_NAME} over the encoder alone, percent",
        sharex=True,
    )


def _gains(
    studies: Studies, data_set: DataSet, protocol: str
) -> list[tuple[Variant, float, pd.Series]]:
    """(variant, gain of the mean, gain of each seed that both have), in percent."""
    rows = []
    for variant in in_order(studies.variants(data_set)):
        comparison = studies.comparison(variant, protocol, METRIC)
        if comparison is None or variant.is_diffusion or not variant.guided_by_diffusion:
            continue
        before = studies.values(variant.plain, protocol, METRIC)
        by_seed = 100 * (studies.values(variant, protocol, METRIC) / before[before != 0] - 1)
        if math.isfinite(comparison.gain_percent):
            rows.append((variant, comparison.gain_percent, by_seed.dropna()))
    return rows


def draw_training(studies: Studies) -> Image | None:
    """One panel per data set: the validation metric against seconds of training."""

    def draw(axes: Axes, lines: dict[Variant, list[pd.DataFrame]]) -> None:
        for variant, seeds in lines.items():
            style = "-" if variant.is_full or variant.is_diffusion else (0, (4, 2))
            for place, rows in enumerate(seeds):
                axes.plot(
                    rows["seconds"],
                    rows["valid"],
                    color=_colour(variant.model),
                    linestyle=style,
                    linewidth=1.8 if place == 0 else 0.7,
                    alpha=1 if place == 0 else 0.25,
                    marker="." if len(rows) == 1 else None,
                )
        _log_axis(axes, "{x:g}")
        axes.set_xlabel("seconds of training (log scale)")
        axes.set_ylabel(f"{METRIC_NAME} on validation")
        _label_lines(axes, {variant: seeds[0].iloc[-1] for variant, seeds in lines.items()})

    return _draw(
        _panels(studies, lambda data_set: _lines(studies, data_set)),
        lambda lines: 3.6,
        draw,
        f"{METRIC_NAME} on validation over seconds of training, a line per model; encoders alone "
        "are dashed, PDRec is solid.",
    )


def _log_axis(axes: Axes, template: str) -> None:
    """Plain numbers, also between the powers of ten where there are few of those."""
    from matplotlib.ticker import LogFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(template)
    axes.xaxis.set_minor_formatter(LogFormatter())


def _lines(studies: Studies, data_set: DataSet) -> dict[Variant, list[pd.DataFrame]]:
    """Variant -> validated epochs of each seed, the seed with the middle best value first."""
    rows = studies.rows("curves", data_set)
    rows = rows[np.isfinite(rows["valid"]) & (rows["seconds"] > 0)]
    found: dict[Variant, list[pd.DataFrame]] = {}
    for key, seed in rows.groupby([*VARIANT, "seed"], sort=False):
        found.setdefault(Variant(*key[:5]), []).append(seed)
    lines = {}
    for variant in in_order(found):
        if variant.modules == PLAIN or variant.is_full:
            seeds = sorted(found[variant], key=lambda seed: seed["valid"].max())
            lines[variant] = [seeds.pop((len(seeds) - 1) // 2), *seeds]
    return lines


def _label_lines(axes: Axes, ends: Mapping[Variant, pd.Series]) -> None:
    """Names to the right of the panel, pushed apart where lines end close to each other."""
    from matplotlib.transforms import blended_transform_factory

    low, high = axes.get_ylim()
    gap = 0.052 * (high - low)
    ordered = sorted(ends.items(), key=lambda item: item[1]["valid"])
    places: list[float] = []
    for _, end in ordered:
        places.append(max(end["valid"], places[-1] + gap) if places else end["valid"])
    ceiling = min(places[-1], high)
    for i in range(len(places) - 1, -1, -1):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - gap
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    for (variant, end), place in zip(ordered, places, strict=True):
        colour = _colour(variant.model)
        axes.annotate(
            variant.name,
            (end["seconds"], end["valid"]),
            xytext=(1.03, place),
            textcoords=beside,
            color=colour,
            fontsize=8.5,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": colour, "alpha": 0.35},
        )
    axes.set_ylim(low, high)


def draw_ranks(studies: Studies) -> Image | None:
    """Two panels per data set: where the test item ranks, known items above cold ones."""

    def draw(axes: Axes, group: RankGroup) -> None:
        bins = group.bins
        edges = [*bins["first"], bins["last"].iloc[-1] + 1]
        colour = _COLOURS["sasrec" if group.known else "cl4srec"]
        axes.stairs(group.percent, edges, fill=True, color=colour, alpha=0.75)
        if "chance" in bins:
            chance = bins["chance"]
            axes.stairs(chance, edges, color=_PAIRED, linestyle="--", label="in random order")
            axes.legend(loc="upper left", fontsize=8)
        _log_axis(axes, "{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:.0f} %")
        axes.set_ylabel("cases")
        axes.set_ylim(bottom=0)
        if not group.known:
            axes.set_xlabel("rank of the test item in the whole corpus, 1 is best (log scale)")

    return _draw(
        [
            (f"{data_set.name}: {group.name}", group)
            for data_set in studies.data_sets
            for group in known_and_cold(studies, data_set)
        ],
        lambda group: 2.3,
        draw,
        f"Share of the test cases by the rank of the test item under {model_name(GUIDE)}, for "
        "items that occur in training and, apart, for cold ones; dashed: as a random order gives.",
    )


def draw_histories(studies: Studies, data_set: DataSet) -> Image | None:
    """One panel per user of a data set: HBR's weight of each behaviour, in order of time."""
    name, users = data_set.name, histories(studies, data_set)
    return _draw(
        [(f"{name}: user {user}, {len(rows)} behaviours", rows) for user, rows in users.items()],
        lambda rows: 2.0,
        _stems,
        f"Weights that HBR gives to the behaviours of {len(users)} users of {name}; 1 is the "
        "weight without HBR.",
        x_label="place in the history, and when",
    )


def histories(studies: Studies, data_set: DataSet) -> dict[str, pd.DataFrame]:
    """User -> behaviours in order, of the first seed."""
    rows = studies.rows("hbr", data_set)
    users = rows[rows["seed"] == rows["seed"].min()].groupby("user", sort=False)
    return {user: behaviours.sort_values("position") for user, behaviours in users}


def _stems(axes: Axes, rows: pd.DataFrame) -> None:
    places = range(1, len(rows) + 1)
    colour = _COLOURS["sasrec"]
    axes.vlines(places, 0, rows["weight"], color=colour, linewidth=1.6)
    axes.plot(places, rows["weight"], "o", markersize=4, color=colour)
    axes.axhline(1, color=_PAIRED, linewidth=1, linestyle="--")
    step = max(1, math.ceil(len(rows) / 8))
    shown = rows.iloc[::step]
    names = [f"{row.position}\n{moment(row.timestamp)}" for row in shown.itertuples()]
    axes.set_xticks(places[::step], names, fontsize=8)
    axes.set_xlim(0.3, len(rows) + 0.7)
    axes.set_ylim(0, max(1.0, *rows["weight"]) * 1.12)
    axes.set_ylabel("weight")
    axes.grid(axis="x", visible=False)
