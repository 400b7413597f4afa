"""Plain encoders on real data, each with settings chosen on validation: what guidance must beat.

A recipe is what ``pdrec-fast run --modules none --preset default --set ...`` would be told; epochs
are selected by validation NDCG@10 under ``full``. Every run appends a line of JSON with its
command, its seconds (validation included) and all figures, under both protocols::

    python -m bench.backbones --data DIR --out bench/results/backbones.jsonl --seeds 5

DIR has toy.inter, book.inter, beauty.inter and ml-1m.inter. What is in ``--out`` already is not
run again; with ``--runs`` the models are kept, and a run that was killed goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import pdrec_fast as pf
from bench.machine import environment
from bench.target import CPU
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.settings import with_settings

_WIDE: dict[str, Any] = {"encoder.width": 128, "pdrec.shared_negatives": 2048}
RECIPES: dict[str, dict[str, Any]] = {
    "toy": {
        "pdrec.lr": 3e-3,
        "pdrec.epochs": 32,
        "pdrec.patience": 12,
        "encoder.width": 128,
        "encoder.dropout": 0.5,
    },
    "book": {"pdrec.lr_decay": 0.93, "pdrec.epochs": 24, "encoder.dropout": 0.25},
    "beauty": _WIDE
    | {
        "pdrec.table_optimizer": "rows",
        "pdrec.epochs": 36,
        "encoder.max_length": 50,
        "encoder.dropout": 0.25,
    },
    "ml-1m": _WIDE
    | {
        "pdrec.temperature": 15.0,
        "pdrec.lr_decay": 0.94,
        "pdrec.warmup_steps": 200,
        "pdrec.batch_size": 32,
        "pdrec.epochs": 36,
        "pdrec.patience": 8,
        "encoder.dropout": 0.2,
    },
}
"""Data set -> settings, on top of the preset ``default``."""
METRICS = ("ndcg@10", "hr@10", "ndcg@5", "hr@5")


def command_of(name: str, encoder: str, seed: int, settings: Mapping[str, Any]) -> str:
    """What gives the same run on the command line."""
    options = " ".join(f"--set {key}={value}" for key, value in settings.items())
    return (
        f"pdrec-fast run --data {name}.inter --encoder {encoder} --modules none --preset default "
        f"--seed {seed} {options}"
    )


def train(
    folder: Path, name: str, encoder: str, seed: int, runs: Path | None = None
) -> dict[str, Any]:
    """One run, in a directory of its own in ``runs``; returns the line that is written."""
    data = pf.Interactions.from_file(folder / f"{name}.inter")
    settings = RECIPES[name]
    config = pf.RunConfig.from_preset("default", encoder=encoder, modules=(), seed=seed)
    out = None if runs is None else runs / f"{name}-{encoder}-{seed}"
    metrics = pf.run(data, with_settings(config, settings), out=out).metrics
    return {
        "data": name,
        "encoder": encoder,
        "seed": seed,
        "command": command_of(name, encoder, seed, settings),
        "seconds": metrics["seconds"]["encoder"],
        "epochs": metrics["epochs"]["encoder"],
        "results": _short(metrics["protocols"]),
        "popularity": _short(metrics["popularity"]),
        "environment": environment(torch.get_num_threads(), CPU),
    }


def _short(protocols: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    return {
        protocol: {
            split: {metric: round(found[metric], 5) for metric in METRICS}
            for split, found in splits.items()
        }
        for protocol, splits in protocols.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing in ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m bench.backbones", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="keep the models here")
    parser.add_argument("--only", nargs="+", choices=sorted(RECIPES), default=list(RECIPES))
    parser.add_argument("--encoders", nargs="+", choices=sorted(ENCODERS), default=["sasrec"])
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 (default 1)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {_place(json.loads(line)) for line in lines}
    for seed in range(options.seeds):
        for name in options.only:
            for encoder in options.encoders:
                if (name, encoder, seed) in done:
                    continue
                line = train(options.data, name, encoder, seed, options.runs)
                with options.out.open("a") as stream:
                    print(json.dumps(line), file=stream, flush=True)
                test = {p: line["results"][p]["test"]["ndcg@10"] for p in line["results"]}
                print(name, encoder, seed, test, f"{line['seconds']:.0f} s", flush=True)
    return 0


def _place(line: Mapping[str, Any]) -> tuple[str, str, int]:
    return line["data"], line["encoder"], line["seed"]


if __name__ == "__main__":
    raise SystemExit(main())
