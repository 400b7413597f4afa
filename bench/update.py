"""What an update of a finished run is worth, against training from scratch, on data cut at a date.

The oldest nine tenths of the records make a run of the preset ``default``. Then all records are
there: one run is trained on them from scratch, another updates the old one, both are tested by
leave-one-out. Each of the three appends a line of JSON with its seconds, epochs and figures::

    python -m bench.update --data DIR --out bench/results/update.jsonl --runs DIR --seeds 0 1 2

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
from pdrec_fast.options import modules_of
from pdrec_fast.settings import parse_settings

OLD, SCRATCH, UPDATE = "old", "scratch", "update"
METRICS = ("ndcg@10", "hr@10")
PLACE = ("data", "kind", "how", "seed")  # what tells lines apart


def oldest(data: pf.Interactions, share: float) -> pf.Interactions:
    """The records before a time that so many of all records lie before."""
    assert data.timestamps is not None
    cut = np.sort(data.timestamps)[int(share * data.n_records)]
    kept = data.timestamps < cut
    users, items = data.user_ids[data.record_users[kept]], data.item_ids[data.items[kept]]
    return pf.Interactions.from_arrays(users, items, data.timestamps[kept])


def trained(how: str, data: pf.Interactions, config: pf.RunConfig, runs: Path) -> dict[str, Any]:
    """The metrics of one run, in a directory of its own."""
    if how == UPDATE:
        found = pf.update(runs / OLD, data, out=runs / how, device="cpu", progress=False)
    else:
        found = pf.run(data, config, out=runs / how, device="cpu", progress=False)
    return found.metrics


def line_of(place: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What is written of a run."""
    return {
        **place,
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
    parser.add_argument("--encoder", default="sasrec", help="or diffusion alone (default sasrec)")
    parser.add_argument("--modules", default="fusion", help="or none (default fusion)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(default 0)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = [{key: line[key] for key in PLACE} for line in map(json.loads, lines)]
    for name in options.only:
        data = pf.Interactions.from_file(options.data / f"{name}.inter")
        old = oldest(data, options.share)
        for seed in options.seeds:
            kind = [options.encoder, options.modules, *sorted(options.settings)]
            runs = options.runs / "-".join([name, *kind, str(seed)])
            config = pf.RunConfig.from_preset(
                "default",
                encoder=options.encoder,
                modules=modules_of(options.modules),
                seed=seed,
            )
            config = pf.with_settings(config, parse_settings(options.settings))
            for how in (OLD, SCRATCH, UPDATE):
                place = dict(zip(PLACE, (name, kind, how, seed), strict=True))
                if place in done:
                    continue
                line = line_of(place, trained(how, old if how == OLD else data, config, runs))
                with options.out.open("a") as stream:
                    print(json.dumps(line), file=stream, flush=True)
                print(*place.values(), line["results"], line["seconds"], flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
