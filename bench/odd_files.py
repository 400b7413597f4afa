"""The preset ``default`` on generated files that it was not chosen on: is it ever below popularity?

Every file appends a line of JSON for each set of modules (none, the paper's, the fusion), with the
figures of popularity, the encoder and the diffusion model (validation and test, both protocols) and
with all that was warned of::

    python -m bench.odd_files --out bench/results/odd-files.jsonl
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

FILES: dict[str, dict[str, Any]] = {
    "tiny": {"n_users": 60, "n_items": 40, "seed": 11},
    "noise": {"n_users": 4_000, "n_items": 600, "seed": 12, "noise": 0.85},
    "few users, many items": {"n_users": 500, "n_items": 20_000, "seed": 13},
    "many users, few items": {"n_users": 12_000, "n_items": 150, "seed": 14, "noise": 0.05},
    "500,000 items": {"n_users": 4_000, "n_items": 500_000, "seed": 15, "noise": 0.5},
}
SETS: dict[str, tuple[pf.training.Module, ...]] = {
    "none": (),
    "paper": pf.training.MODULES,
    "fusion": ("fusion",),
}


def tried(name: str, modules: tuple[pf.training.Module, ...]) -> dict[str, Any]:
    """One file with some modules; returns the line that is written."""
    data = pf.synthetic(**FILES[name])
    config = pf.RunConfig.from_preset("default", modules=modules)
    metrics = pf.run(data, config).metrics
    found: dict[str, Any] = {"popularity": metrics["popularity"], "encoder": metrics["protocols"]}
    if metrics["diffusion"]:
        found["diffusion"] = metrics["diffusion"]
    return {
        "file": name,
        "modules": modules,
        "synthetic": FILES[name],
        "records": data.n_records,
        "ndcg@10": {model: _short(protocols) for model, protocols in found.items()},
        "fusion": metrics["fusion"],
        "remarks": {name: curve["remarks"] for name, curve in metrics["history"].items() if curve},
        "seconds": metrics["seconds"],
        "epochs": metrics["epochs"],
        "environment": environment(torch.get_num_threads(), CPU),
    }


def _short(protocols: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    return {
        protocol: {split: round(found["ndcg@10"], 5) for split, found in splits.items()}
        for protocol, splits in protocols.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the files that are missing in ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m bench.odd_files", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--only", nargs="+", choices=sorted(FILES), default=list(FILES))
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    parser.add_argument("--modules", nargs="+", choices=list(SETS), default=list(SETS))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = [(line["file"], tuple(line["modules"])) for line in map(json.loads, lines)]
    for name in options.only:
        for modules in (SETS[each] for each in options.modules):
            if (name, modules) in done:
                continue
            line = tried(name, modules)
            with options.out.open("a") as stream:
                print(json.dumps(line), file=stream, flush=True)
            print(name, modules, line["ndcg@10"], line["remarks"], sep="\n  ", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
