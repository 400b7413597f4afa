"""Every encoder with settings chosen on validation at one budget, plain and guided.

The rule, fixed before the first run. Each model of each data set has the same budget of CPU seconds
of one thread (``DATA``); trainings, their validations and the pilots below count. Its settings
(``SETTINGS``) are tried in their order while at least a third of the budget is left, each for at
most half of it: a pilot of one epoch says how many epochs that is. The learning rate falls to a
tenth by the last of them, or by a twentieth an epoch where that is faster; a training stops early
after five epochs without a gain. So what is fast tries more settings, and for longer; what is slow
tries two. Everything else is the preset ``default``, the width 64, the seed 0, and validation a
fixed sample of 4,000 users for all. The trial of the best validation NDCG@10 under ``full`` is
tested on all users, alone and with the linear denoiser's share in its logits, chosen on the same
4,000 as the preset does. Baselines have the same budget and need little of it.

Book's budget, 400 at first like ML-1M's, was halved before any encoder was tried there, for want of
time.

SASRec had been tried on Beauty with its default start when its faster one was found, on Toy's
validation, and the others given it (``positions_like_items``); that SASRec is ``sasrec-xavier``.
``ligr-times`` is LiGR with a bias of the time between two items, where the data have times.

The hypotheses: (1) encoders that learn from every next item (SASRec, LiGR, GRU4Rec, HSTU, CL4SRec)
end above those that learn from a part of them (MLP4Rec, BERT4Rec, DiffuRec, DiffRec*), as they see
more in as many seconds; (2) LiGR is within 3 % of SASRec; (3) the guide lifts every encoder on
Beauty, the weaker the more.

A line of JSON for every trial, and one for every model that was tested::

    python -m bench.encoders run --data DIR --runs RUNS --out bench/results/encoders.jsonl
    python -m bench.encoders show --out bench/results/encoders.jsonl --figures DIR

What is in ``--out`` already is not done again. ``show`` prints a table of each data set and draws
quality against seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

import pdrec_fast as pf
from bench.fusion import METRICS, compared
from bench.machine import environment
from bench.plots import draw_quality
from bench.target import CPU
from pdrec_fast.baselines import ItemKNNConfig
from pdrec_fast.diffusion import LinearConfig
from pdrec_fast.evaluation import Evaluator, summarize, validation_sample
from pdrec_fast.fitting.history import History
from pdrec_fast.pipeline import new_encoder
from pdrec_fast.settings import with_settings

Settings = dict[str, Any]
SEED, VALIDATION_USERS, MOST_EPOCHS = 0, 4_000, 100


@dataclass(frozen=True)
class DataSet:
    """Budget of every model in CPU seconds, and settings that all encoders share."""

    budget: float
    settings: Settings


_AMAZON = {"encoder.max_length": 50, "pdrec.table_optimizer": "rows"}
DATA = {
    "beauty": DataSet(200, _AMAZON),
    "toy": DataSet(200, _AMAZON),
    "ml-1m": DataSet(
        400,
        {
            "encoder.max_length": 100,
            "pdrec.temperature": 15.0,
            "pdrec.warmup_steps": 200,
            "pdrec.batch_size": 32,
        },
    ),
    "book": DataSet(200, _AMAZON),
}
_RATES = [(2e-3, 0.25), (2e-3, 0.5), (4e-3, 0.5), (1e-3, 0.25), (4e-3, 0.25), (1e-3, 0.5)]
_GRID = [{"pdrec.lr": lr, "encoder.dropout": dropout} for lr, dropout in _RATES]
# A state costs a pass over its whole prefix: few prefixes leave time for more epochs.
_SHORT = [each | {"encoder.max_length": 20, "encoder.prefixes": 2} for each in _GRID]
_LIKE_ITEMS = [each | {"encoder.positions": "items"} for each in _GRID]
_MASKS = (0.4, 0.2, 0.4, 0.6, 0.4, 0.2)
SETTINGS: dict[str, list[Settings]] = {
    "popularity": [{}],
    "item-knn": [
        {"decay": decay, "shrinkage": shrinkage}
        for decay, shrinkage in product((0.7, 0.5, 0.9), (20.0, 100.0))
    ],
    "linear": [  # its own defaults first: that trial is the guide
        {"decay": decay, "ridge": ridge} for decay, ridge in product((0.7, 0.5), (250.0, 100.0))
    ],
    **dict.fromkeys(("sasrec", "cl4srec"), _LIKE_ITEMS),
    **dict.fromkeys(("sasrec-xavier", "gru4rec", "ligr", "hstu", "caser"), _GRID),
    "ligr-times": [each | {"encoder.time_buckets": 64} for each in _GRID],
    **dict.fromkeys(("mlp4rec", "diffurec", "diffrec-star"), _SHORT),
    "bert4rec": [each | {"encoder.mask": mask} for each, mask in zip(_GRID, _MASKS, strict=True)],
}
BASELINES: dict[str, Callable[[Settings], Any]] = {
    "popularity": lambda _: pf.Popularity(),
    "item-knn": lambda settings: pf.ItemKNN(ItemKNNConfig(**settings)),
    "linear": lambda settings: pf.LinearDenoiser(LinearConfig(**settings)),
}
LOADERS = {"popularity": pf.Popularity, "item-knn": pf.ItemKNN, "linear": pf.LinearDenoiser}


class Curve(pf.Callback):
    """CPU seconds at the end of every epoch."""

    def __init__(self) -> None:
        self.started, self.seconds = time.process_time(), list[float]()

    def on_epoch_end(self, name: str, history: History) -> None:
        self.seconds.append(round(time.process_time() - self.started, 2))


def trained(
    split: pf.Split, data: DataSet, encoder: str, settings: Settings, seconds: float
) -> tuple[pf.PDRec, dict[str, Any]]:
    """One trial of an encoder, of about so many CPU seconds at most, and what it saw."""
    encoder = encoder.removesuffix("-xavier").removesuffix("-times")
    config = pf.RunConfig.from_preset("default", encoder=encoder, modules=(), seed=SEED)
    own = data.settings | settings
    if encoder == "hstu" and split.train.timestamps is None:
        own["encoder.time_buckets"] = 0
    own |= {"encoder.width": 64, "pdrec.validation_users": VALIDATION_USERS}
    config = with_settings(config, own | {"pdrec.epochs": MOST_EPOCHS})
    pilot = Curve()
    new_encoder(config, CPU.device).fit(split, epochs=1, progress=False, callbacks=[pilot])
    each = pilot.seconds[0]
    epochs = min(max(int(seconds / each) - 1, 1), MOST_EPOCHS)
    decay = min(config.pdrec.lr_decay, 0.1 ** (1 / epochs))
    config = replace(config, pdrec=replace(config.pdrec, epochs=epochs, lr_decay=decay))
    curve = Curve()
    model = new_encoder(config, CPU.device).fit(split, progress=False, callbacks=[curve])
    assert model.history is not None
    return model, {
        "epochs": epochs,
        "curve": [*zip(curve.seconds, model.history.validations.values(), strict=True)],
        "valid": model.history.best_value,
        "train_seconds": curve.seconds[-1],
    }


def counted(split: pf.Split, model: str, settings: Settings) -> tuple[Any, dict[str, Any]]:
    """One trial of a baseline."""
    started = time.process_time()
    fitted = BASELINES[model](settings).fit(split)
    seconds = time.process_time() - started
    evaluator = Evaluator(validation_sample(split, VALIDATION_USERS, SEED))
    valid = evaluator.ndcg_at_10(fitted, "full")
    return fitted, {"valid": valid, "train_seconds": round(seconds, 2)}


def tested(split: pf.Split, model: Any, linear: pf.LinearDenoiser | None) -> dict[str, Any]:
    """Test figures, and those with the guide's share."""
    evaluator = Evaluator(split)
    alone = evaluator.all_ranks(model, on=["test"])
    if linear is None:
        return {
            "results": {
                protocol: {
                    metric: round(summarize(found["test"], ks=(10,))[metric], 5)
                    for metric in METRICS
                }
                for protocol, found in alone.items()
            }
        }
    started = time.process_time()
    sample = validation_sample(split, VALIDATION_USERS, SEED)
    model.fusion = pf.choose_shares(model, {"linear": linear}, sample, progress=False)
    seconds = time.process_time() - started
    found = compared(alone, evaluator.all_ranks(model, on=["test"]))
    return {
        "results": {protocol: splits["test"] for protocol, splits in found.items()},
        "shares": {name: asdict(share) for name, share in model.fusion.shares.items()},
        "share_seconds": round(seconds, 2),
    }


def trials(
    split: pf.Split, place: dict[str, Any], lines: Sequence[Mapping[str, Any]], runs: Path
) -> Iterator[dict[str, Any]]:
    """The trials of a model that are missing, while there is budget, each kept in ``runs``."""
    name, model = place["data"], place["model"]
    data, spent = DATA[name], sum(line["seconds"] for line in lines)
    for number, settings in enumerate(SETTINGS[model]):
        if number < len(lines):
            continue
        if data.budget - spent < data.budget / 3:
            return
        started = time.process_time()
        if model in BASELINES:
            fitted, found = counted(split, model, settings)
        else:
            left = min(data.budget / 2, data.budget - spent)
            fitted, found = trained(split, data, model, settings, left)
        fitted.save(_folder(runs, place | {"trial": number}))
        seconds = round(time.process_time() - started, 2)
        spent += seconds
        yield {**place, "trial": number, "settings": settings, "seconds": seconds, **found}


def best(
    split: pf.Split,
    place: Mapping[str, str],
    lines: Sequence[Mapping[str, Any]],
    runs: Path,
    guide: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The test of the best trial; ``guide`` is the trial of the linear denoiser that guides it."""
    chosen = max(lines, key=lambda line: line["valid"])
    linear, seconds = None, 0.0
    if guide is None:
        fitted: Any = LOADERS[place["model"]].load(_folder(runs, chosen))
    else:
        fitted = pf.PDRec.load(_folder(runs, chosen), device="cpu")
        linear, seconds = pf.LinearDenoiser.load(_folder(runs, guide)), guide["train_seconds"]
    return {
        **place,
        "best": chosen["trial"],
        "trials": len(lines),
        "spent": round(sum(line["seconds"] for line in lines), 1),
        "settings": chosen["settings"],
        "valid": chosen["valid"],
        "train_seconds": chosen["train_seconds"],
        "guide_seconds": seconds,
        **tested(split, fitted, linear),
        "environment": environment(torch.get_num_threads(), CPU),
    }


def _folder(runs: Path, trial: Mapping[str, Any]) -> Path:
    return runs / f"{trial['data']}-{trial['model']}-{trial['trial']}"


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of ``path``; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(options: argparse.Namespace) -> None:
    """Do what is missing in ``--out``, the guide before the encoders."""
    torch.set_num_threads(1)
    for name in options.only:
        split = pf.leave_one_out(pf.Interactions.from_file(options.data / f"{name}.inter"))
        for model in dict.fromkeys(["linear", *options.models]):
            if model.endswith("-times") and split.train.timestamps is None:
                continue
            place = {"data": name, "model": model}
            lines = [line for line in read(options.out) if place.items() <= line.items()]
            if any("best" in line for line in lines):
                continue
            for line in trials(split, place, lines, options.runs):
                lines.append(line)
                _write(options.out, line)
            guide = None if model in BASELINES else _guide(name, options.out)
            _write(options.out, best(split, place, lines, options.runs, guide))


def _guide(name: str, path: Path) -> dict[str, Any]:
    """The trial of the linear denoiser with its own defaults, as in the preset."""
    wanted = {"data": name, "model": "linear", "trial": 0}
    return next(line for line in read(path) if wanted.items() <= line.items())


def _write(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a") as stream:
        print(json.dumps(line), file=stream, flush=True)
    print({key: value for key, value in line.items() if key not in ("curve", "environment")})


def show(options: argparse.Namespace) -> None:
    """A table of each data set, in Markdown, and its figure."""
    lines = read(options.out)
    for name in dict.fromkeys(line["data"] for line in lines if "best" in line):
        rows = [line for line in lines if line["data"] == name and "best" in line]
        print(f"\n{name}\n\n{table(rows)}")
        if options.figures is not None:
            chosen = {(row["model"], row["best"]) for row in rows}
            curves = {
                line["model"]: line["curve"]
                for line in sorted(lines, key=lambda line: -line["valid"])
                if (line["model"], line.get("trial")) in chosen
                and line["data"] == name
                and "curve" in line
            }
            points = {
                row["model"]: (row["train_seconds"], row["valid"])
                for row in rows
                if row["train_seconds"] and row["model"] not in curves
            }
            title = f"{name}: the chosen trial of each model, one seed"
            draw_quality(curves, points, title, options.figures / f"{name}.svg")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Test figures of a data set under ``full``, best first."""
    text = [
        "| model | trials | CPU s, all | CPU s, chosen | valid | HR@10 | NDCG@10 | guided | gain |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: -_alone(row, "ndcg@10")):
        alone, guided = _alone(row, "ndcg@10"), _guided(row)
        gain = "" if guided is None else f"{100 * (guided / alone - 1):+.1f} %"
        cells = [
            row["model"],
            str(row["trials"]),
            f"{row['spent']:.0f}",
            f"{row['train_seconds']:.0f}",
            f"{row['valid']:.4f}",
            f"{_alone(row, 'hr@10'):.4f}",
            f"{alone:.4f}",
            "" if guided is None else f"{guided:.4f}",
            gain,
        ]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)


def _alone(row: Mapping[str, Any], metric: str) -> float:
    found = row["results"]["full"][metric]
    return float(found["alone"] if isinstance(found, dict) else found)


def _guided(row: Mapping[str, Any]) -> float | None:
    found = row["results"]["full"]["ndcg@10"]
    return float(found["fused"]) if isinstance(found, dict) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """``run`` or ``show``."""
    parser = argparse.ArgumentParser(prog="python -m bench.encoders", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="models are kept here")
    parser.add_argument("--only", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--models", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--figures", type=Path, metavar="DIR", help="for the figures of show")
    options = parser.parse_args(arguments)
    if options.what == "show":
        show(options)
        return 0
    if options.data is None or options.runs is None:
        parser.error("run needs --data and --runs")
    run(options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
