"""The figures of docs/how-it-works.md and of the README, from models trained on generated data.

``python docs/tools/figures.py`` writes docs/figures/*.svg, in about a minute on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch

import pdrec_fast as pf
from pdrec_fast.ops.denoising.noisy_input import noisy_input

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).resolve().parents[1] / "figures"
INK, SEEN, TARGET, REST = "#37474f", "#1565c0", "#c62828", "#b0bec5"
GOOD, SAFE = "#2e7d32", "#ef6c00"
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "pdrec_fast",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class Models:
    split: pf.Split
    ti: pf.DiffRec  # the paper's time-interval diffusion model, small
    own: pf.DiffRec  # the preset default's
    plain: pf.PDRec
    guided: pf.PDRec


def trained() -> Models:
    split = pf.leave_one_out(pf.synthetic(n_users=1500, n_items=400))
    preset = pf.PRESETS["default"]
    ti = pf.DiffRec(pf.PRESETS["default-0.1"].diffusion).fit(split, progress=False)
    own = pf.DiffRec(preset.diffusion).fit(split, progress=False)
    plain = pf.PDRec("sasrec", preset.pdrec, modules=()).fit(split, progress=False)
    # The same encoder once more: fusion leaves its training alone.
    guided = pf.PDRec("sasrec", preset.pdrec).fit(split, guides={"guide": own}, progress=False)
    return Models(split, ti, own, plain, guided)


def draw_diffusion(models: Models, user: int) -> plt.Figure:
    """A user's weighted interactions, the same after noise and dropout, and what is predicted."""
    histories = models.split.train.histories([user])
    x0, config = models.ti.inputs(histories), models.ti.config
    schedule, step = config.noise_schedule(), config.steps - 1
    noised = noisy_input(
        x0.indptr,
        x0.items,
        x0.values,
        x0.n_items,
        signal=schedule.signal[step : step + 1].float(),
        sigma=schedule.sigma[step : step + 1].float(),
        dropout=config.dropout,
        seed=0,
        epoch=0,
        users=np.array([user]),
    )
    panels = (
        ("1. the history as weights of items: the latest weighs 1, the first 0.5", x0.dense()),
        ("2. training: Gaussian noise on all items, half of them dropped", noised),
        ("3. the denoiser's answer: a preference for every item", models.ti.scores(histories)),
    )
    target = target_of(models.split, user)
    figure, rows = plt.subplots(3, 1, figsize=(7.6, 4.6), sharex=True, layout="constrained")
    for axes, (title, values) in zip(rows, panels, strict=True):
        bars(axes, values[0].numpy(), x0.items, title)
    height = float(panels[2][1][0, target])
    rows[2].annotate(
        "held out: the item that came next",
        (target, height),
        (target + (12 if target < 250 else -130), 0.8 * rows[2].get_ylim()[1]),
        color=TARGET,
        arrowprops={"arrowstyle": "->", "color": TARGET},
    )
    rows[2].vlines([target], 0, [height], color=TARGET, linewidth=1.6)
    rows[2].set_xlabel("item (blue: in the history)")
    return figure


def bars(axes: plt.Axes, values: np.ndarray, seen: np.ndarray, title: str) -> None:
    others = np.setdiff1d(np.flatnonzero(values), seen)
    axes.vlines(others, 0, values[others].round(4), color=REST, linewidth=0.8)
    axes.vlines(seen, 0, values[seen].round(4), color=SEEN, linewidth=1.6)
    axes.axhline(0, color=INK, linewidth=0.5)
    axes.set_title(title)
    axes.margins(x=0.01)


def draw_hbr(models: Models, user: int) -> plt.Figure:
    """What the diffusion expects of each behaviour, and the weight that follows."""
    train = models.split.train
    preferences = pf.Preferences.infer(models.ti, train, progress=False)
    config = pf.PRESETS["toy"].pdrec
    rows = slice(train.indptr[user], train.indptr[user + 1])
    days = (train.timestamps[rows] - train.timestamps[rows.start]) / 86400
    places = np.arange(len(days))
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(7.6, 3.4), sharex=True, layout="constrained"
    )
    above.bar(places, preferences.observed_scores[rows], color=SEEN, width=0.6)
    above.set_title("the diffusion's preference for each item of the history")
    below.bar(places, preferences.hbr_weights(train, config)[rows], color=GOOD, width=0.6)
    below.set_title("HBR's weight of that behaviour in the encoder's loss")
    below.set_xticks(places, [f"day {day:.0f}" for day in days])
    return figure


def draw_pools(models: Models, user: int) -> plt.Figure:
    """The unobserved items by preference: DPA's soft positives and NNS's pool of negatives."""
    train = models.split.train
    preferences = pf.Preferences.infer(models.ti, train, top_m=5, n_draws=12, progress=False)
    scores = models.ti.scores(train.histories([user]))[0].numpy().copy()
    seen = np.unique(train.items[train.indptr[user] : train.indptr[user + 1]])
    scores[seen] = -np.inf
    order = np.argsort(-scores, kind="stable")[: len(scores) - len(seen)]
    place = np.empty(len(scores), dtype=int)
    place[order] = np.arange(len(order))
    soft = place[preferences.top_items[user]]
    drawn = place[preferences.negatives[user]]
    begins = place[preferences.threshold_items[user]]
    figure, axes = plt.subplots(figsize=(7.6, 2.8), layout="constrained")
    axes.plot(scores[order].round(4), color=INK, linewidth=1)
    axes.axvspan(begins, len(order), color=SAFE, alpha=0.12, linewidth=0)
    axes.plot(soft, scores[order][soft], "o", color=GOOD, markersize=5)
    axes.plot(drawn, scores[order][drawn], "|", color=SAFE, markersize=14, markeredgewidth=1.5)
    axes.text(soft[-1] + 6, scores[order][soft[2]], "DPA: soft positives", color=GOOD)
    axes.text(
        begins + 4,
        scores[order][2],
        "NNS: the pool of safe negatives,\nand twelve draws",
        color=SAFE,
        va="top",
    )
    axes.set_xlabel("unobserved items, by descending preference")
    axes.set_ylabel("preference")
    axes.margins(x=0.01)
    return figure


def draw_weights(models: Models) -> plt.Figure:
    """NDCG@10 of the encoder's logits plus w times the diffusion's: what the search looks at."""
    weights = np.array([0, 0.05, 0.1, 0.2, 0.35, 0.6, 1, 1.7, 3, 6])
    figures = {"valid": [], "test": []}
    chosen = models.guided.fusion
    for weight in weights:
        share = pf.Share(float(weight), chosen.shares["guide"].transform)
        models.guided.fusion = pf.Fusion({"guide": models.own}, {"guide": share})
        result = pf.evaluate(models.guided, models.split, protocols=["full"])["full"]
        for part, values in figures.items():
            values.append(result[part]["ndcg@10"])
    models.guided.fusion = chosen
    figure, axes = plt.subplots(figsize=(7.6, 2.8), layout="constrained")
    places = np.arange(len(weights))
    for part, colour in (("valid", SEEN), ("test", INK)):
        axes.plot(places, figures[part], marker="o", markersize=4, color=colour, label=part)
    weight = chosen.shares["guide"].weight
    axes.axvline(np.interp(weight, weights, places), color=GOOD, linewidth=1, linestyle="--")
    axes.set_title(f"chosen on validation: {weight:.2g} (dashed); 0 is the encoder alone")
    axes.set_xticks(places, [f"{w:g}" for w in weights])
    axes.set_xlabel("weight of the diffusion's scores in the logits")
    axes.set_ylabel("NDCG@10, full")
    axes.legend()
    return figure


def draw_overview(models: Models, user: int) -> plt.Figure:
    """One user's ten best items by the encoder, by the diffusion, and by both."""
    split, target = models.split, target_of(models.split, user)
    history = split.test.histories[np.flatnonzero(split.test.users == user)]
    seen = history.packed()[1]
    panels = (
        ("encoder: what comes next", models.plain, SEEN),
        ("diffusion: what the user likes", models.own, SAFE),
        ("both, added up", models.guided, GOOD),
    )
    figure, columns = plt.subplots(1, 3, figsize=(7.6, 2.9), layout="constrained")
    for axes, (title, model, colour) in zip(columns, panels, strict=True):
        scores = model.scores(history)[0].clone()
        scores[torch.from_numpy(seen).long()] = -torch.inf
        best = scores.topk(10)
        rank = int((scores > scores[target]).sum()) + 1
        values = best.values - best.values[-1] + 0.08 * (best.values[0] - best.values[-1])
        found = best.indices.tolist()
        colours = [TARGET if item == target else colour for item in found]
        axes.barh(range(10), values, color=colours, height=0.7)
        names = split.train.item_ids[found].tolist()
        axes.set_yticks(range(10), [f"item {name}" for name in names], fontsize=7.5)
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(f"the item that came next: rank {rank}", color=TARGET)
    return figure


def target_of(split: pf.Split, user: int) -> int:
    """The user's test target, an index."""
    return int(split.test.targets[np.flatnonzero(split.test.users == user)[0]])


def shown_users(models: Models) -> Sequence[int]:
    """Two users by rule: the first with 8 to 12 training records over a month or more whose new
    item the diffusion foresees, and one of those whose new item rises most by adding up."""
    train, split = models.split.train, models.split
    lengths = np.diff(train.indptr)
    spans = train.timestamps[train.indptr[1:] - 1] - train.timestamps[train.indptr[:-1]]
    by_diffusion = ranks(models.ti, split)
    fits = (lengths >= 8) & (lengths <= 12) & (spans > 30 * 86400)
    cases = split.test.users
    targets = zip(cases, split.test.targets, strict=True)
    new = [item not in train.items[train.indptr[u] : train.indptr[u + 1]] for u, item in targets]
    first = cases[fits[cases] & (by_diffusion <= 10) & new][0]
    alone = np.minimum(ranks(models.plain, split), ranks(models.own, split))
    both = ranks(models.guided, split)
    second = cases[np.argmax(np.where((both <= 3) & new, alone / both, 0))]
    return int(first), int(second)


def ranks(model: pf.Scorer, split: pf.Split) -> np.ndarray:
    """The rank of every test target among the items that its history does not have."""
    histories = split.test.histories
    scores = model.scores(histories).clone()
    indptr, items, _ = histories.packed()
    rows = torch.from_numpy(np.repeat(np.arange(len(histories)), np.diff(indptr)))
    targets = torch.from_numpy(split.test.targets).long()
    own = scores[torch.arange(len(scores)), targets][:, None]
    scores[rows, torch.from_numpy(items).long()] = -torch.inf
    return (1 + (scores > own).sum(1)).numpy()


def main() -> None:
    models = trained()
    one, other = shown_users(models)
    with plt.rc_context(STYLE):
        drawn = {
            "diffusion": draw_diffusion(models, one),
            "hbr": draw_hbr(models, one),
            "pools": draw_pools(models, one),
            "weights": draw_weights(models),
            "overview": draw_overview(models, other),
        }
        FOLDER.mkdir(exist_ok=True)
        for name, figure in drawn.items():
            figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
