"""What an update of a finished run is worth, against training from scratch, on data cut at a date.

The oldest nine tenths of the records make a run of the preset ``default``. Then all records are
there: one run is trained on them from scratch, another updates the old one, both are tested by
leave-one-out. Each of the three appends a line of JSON with its seconds, epochs and figures::

    python -m bench.update --data DIR --out bench/results/update.jsonl --runs DIR --seeds 3

The data need timestamps. What is in ``--out`` already is not run again; runs are kept in ``--runs``
and go on where they were killed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pdrec_fast as pf
from bench.machine import environment
from bench.target import CPU

OLD, SCRATCH, UPDATE = "old", "scratch", "update"
METRICS = ("ndcg@10", "hr@10")


def oldest(data: pf.Interactions, share: float) -> pf.Interactions:
    """The records before a time that so many of all records lie before."""
    assert data.timestamps is not None
    cut = np.sort(data.timestamps)[int(share * data.n_records)]
    kept = data.timestamps < cut
    users, items = data.user_ids[data.record_users[kept]], data.item_ids[data.items[kept]]
    return pf.Interactions.from_arrays(users, items, data.timestamps[kept])


def trained(
    how: str, data: pf.Interactions, seed: int, runs: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The metrics of one run, in a directory of its own."""
    out = runs / f"{how}-{seed}"
    if how == UPDATE:
        found = pf.update(runs / f"{OLD}-{seed}", data, out=out, device="cpu", progress=False)
    else:
        config = pf.with_settings(pf.RunConfig.from_preset("default", seed=seed), settings)
        found = pf.run(data, config, out=out, device="cpu", progress=False)
    return found.metrics


def line_of(name: str, how: str, seed: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What is written of a run."""
    return {
        "data": name,
        "how": how,
        "seed": seed,
        "records": metrics["dataset"],
        "seconds": metrics["seconds"],
        "epochs": metrics["epochs"],
        "results": {
            protocol: {metric: round(splits["test"][metric], 5) for metric in METRICS}
            for protocol, splits in metrics["protocols"].items()
        },
        "environment": environment(torch.get_num_threads(), CPU),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing in ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m bench.update", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", nargs="+", default=["toy"], help="data sets (default: toy)")
    parser.add_argument("--share", type=float, default=0.9, help="of old records (default 0.9)")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 (default 1)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {(line["data"], line["how"], line["seed"]) for line in map(json.loads, lines)}
    settings = dict(text.split("=", 1) for text in options.settings)
    for name in options.only:
        data = pf.Interactions.from_file(options.data / f"{name}.inter")
        old = oldest(data, options.share)
        for seed in range(options.seeds):
            for how in (OLD, SCRATCH, UPDATE):
                if (name, how, seed) in done:
                    continue
                runs = options.runs / name
                metrics = trained(how, old if how == OLD else data, seed, runs, settings)
                line = line_of(name, how, seed, metrics)
                with options.out.open("a") as stream:
                    print(json.dumps(line), file=stream, flush=True)
                print(name, how, seed, line["results"], line["seconds"], flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
