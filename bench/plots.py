"""Figures of a results document: bars against reference and floor, and growth curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import describe_sizes, timed_rows

_COLOURS = {"subject": "tab:blue", "reference": "tab:gray", "baseline": "tab:orange"}
_LABELS = {"subject": "pdrec_fast", "reference": "reference", "baseline": "other baselines"}
_MEASURES = (("median", "seconds", 1.0), ("peak_memory", "peak memory [MB]", 1e-6))


def draw(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every figure that the document has rows for as SVG, and print the fitted slopes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the document has no times.
    """
    rows, curves = timed_rows(document), growth_curves(document)
    if not rows and not curves:
        raise ValueError("the results hold no times to draw; run some operation first")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, field, title in (
        ("relative", "ratio_to_reference", "time relative to the reference (lower is better)"),
        ("floor", "ratio_to_floor", "time relative to the machine's floor (1 cannot be beaten)"),
    ):
        shown = [_bar(row, row[field]) for row in rows if row[field] is not None]
        if shown:
            written.append(_draw_bars(shown, title, folder / f"{name}.svg"))
    for (op, axis), points in curves.items():
        written.append(_draw_growth(op, axis, points, folder / f"growth-{op}-{axis}.svg"))
    return written


def draw_gpu(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the figures of a report on a GPU as SVG: speed-ups, shares of the floor and stages.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the document has no times.
    """
    rows = timed_rows(document)
    if not rows:
        raise ValueError("the results hold no times to draw; run some operation first")
    kernels = [row for row in rows if row["kind"] == "kernel"]
    stages = [row for row in rows if row["kind"] == "stage"]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, title, shown, value in (
        ("speed-up", "speed-up over eager PyTorch (more is better)", kernels, _speed_up),
        ("floor", "share of the device's floor (1 cannot be beaten)", kernels, _share_of_floor),
        ("stages", "seconds of a stage (less is better)", stages, lambda row: row["median"]),
    ):
        bars = [_bar(row, value(row), sizes=True) for row in shown if value(row)]
        if bars:
            written.append(_draw_bars(bars, title, folder / f"{name}.svg", one=name != "stages"))
    return written


def _speed_up(row: Mapping[str, Any]) -> float | None:
    return 1 / row["ratio_to_reference"] if row["ratio_to_reference"] else None


def _share_of_floor(row: Mapping[str, Any]) -> float | None:
    return 1 / row["ratio_to_floor"] if row["ratio_to_floor"] else None


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart; rows of one group stand together."""

    group: str
    label: str
    role: str
    value: float


def _bar(row: Mapping[str, Any], value: float, sizes: bool = False) -> Bar:
    at = f" ({describe_sizes(row['sizes'])})" if sizes else ""
    return Bar(row["op"] + at, f"{row['op']}: {row['impl']}{at}", row["role"], value)


def growth_curves(document: Mapping[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(operation, axis) -> its rows by rising size."""
    curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in timed_rows(document, growth=True):
        curves.setdefault((row["op"], row["axis"]), []).append(row)
    return {key: sorted(rows, key=lambda row: row["sizes"][key[1]]) for key, rows in curves.items()}


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Least-squares line through (log x, log y): (exponent, factor) of ``factor * x**exponent``.

    Raises:
        ValueError: fewer than two different x, or a value that is not positive.
    """
    if len(set(x)) < 2 or min(*x, *y) <= 0:
        raise ValueError(f"a slope needs two different x and positive values, got {x=}, {y=}")
    log_x, log_y = [math.log(v) for v in x], [math.log(v) for v in y]
    mean_x, mean_y = sum(log_x) / len(x), sum(log_y) / len(y)
    spread = sum((v - mean_x) ** 2 for v in log_x)
    exponent = sum((a - mean_x) * (b - mean_y) for a, b in zip(log_x, log_y, strict=True)) / spread
    return exponent, math.exp(mean_y - exponent * mean_x)


def _draw_bars(bars: Sequence[Bar], title: str, path: Path, one: bool = True) -> Path:
    """``one`` draws a line at 1."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 1.3 + 0.3 * len(bars)), layout="constrained")
    # One free line between operations.
    starts = [i > 0 and bar.group != bars[i - 1].group for i, bar in enumerate(bars)]
    places = [i + sum(starts[: i + 1]) for i in range(len(bars))]
    values = [bar.value for bar in bars]
    axes.barh(places, values, color=[_COLOURS[bar.role] for bar in bars])
    for place, value in zip(places, values, strict=True):
        text = f" {value:,.0f}" if value >= 100 else f" {value:.3g}"
        axes.annotate(text, (value, place), va="center", fontsize=8)
    if one:
        axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(places, [bar.label for bar in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.01)
    axes.set_title(title, fontsize=10)
    roles = list(dict.fromkeys(bar.role for bar in bars))
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=_COLOURS[role]) for role in roles]
    labels = [_LABELS[role] for role in roles]
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=len(roles))
    return _save(figure, path)


def _draw_growth(op: str, axis: str, rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    figure, panels = _pyplot().subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axes, (field, label, scale) in zip(panels, _MEASURES, strict=True):
        points = [(row["sizes"][axis], row[field] * scale) for row in rows if row[field]]
        axes.set_xlabel(axis)
        axes.set_ylabel(label)
        if len({x for x, _ in points}) < 2:
            axes.set_title("not measured", fontsize=9)
            continue
        x, y = zip(*points, strict=True)
        exponent, factor = slope(x, y)
        fitted = f"{axis}^{exponent:.2f}"
        print(f"{op}: {label.partition(' [')[0]} grows as {fitted}")
        axes.loglog(x, y, "o", color=_COLOURS["subject"])
        axes.loglog(x, [factor * v**exponent for v in x], "--", color="black", label=fitted)
        axes.set_xticks(x, [f"{v:g}" for v in x], minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    figure.suptitle(f"{op} against {axis}: {rows[0]['impl']}", fontsize=10)
    return _save(figure, path)


def draw_quality(
    curves: Mapping[str, Sequence[Sequence[float]]],
    points: Mapping[str, tuple[float, float]],
    title: str,
    path: Path,
) -> Path:
    """Write validation NDCG@10 against CPU seconds as SVG.

    Args:
        curves: model -> (seconds, NDCG@10) after every epoch, the legend's order.
        points: model without epochs -> the same, once.
    """
    figure, axes = _pyplot().subplots(figsize=(8, 4.5), layout="constrained")
    # As many colours as there are, then the same ones dashed.
    styles = [(f"C{n % 10}", "-" if n < 10 else "--") for n in range(len(curves))]
    for (name, curve), (colour, line) in zip(curves.items(), styles, strict=True):
        seconds, values = zip(*curve, strict=True)
        axes.plot(seconds, values, line, color=colour, label=name, linewidth=1.2)
    for name, (seconds, value) in points.items():
        axes.plot(seconds, value, "o", color="black", markersize=4)
        axes.annotate(name, (seconds, value), (5, 3), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.set_xlabel("CPU seconds of one thread")
    axes.set_ylabel("validation NDCG@10, full")
    axes.set_title(title, fontsize=10)
    figure.legend(fontsize=8, loc="outside right center")
    path.parent.mkdir(parents=True, exist_ok=True)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path)
    _pyplot().close(figure)
    return path


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(f"{error}; figures need matplotlib: pip install '.[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
