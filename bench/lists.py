"""Is a gain popularity in disguise? What the lists of guided and plain models look like.

For every run that ``bench.fusion`` has a line of, the model's ten best items for each test case,
with its fusion and without: NDCG@10 by how often the target occurs in the training, the share of
the items that anybody gets (coverage), how unequally they are given out (Gini: 0 all alike, 1 one
item alone), and their mean number of training records::

    python -m bench.lists --data DIR --runs RUNS --fusion bench/results/fusion.jsonl \\
        --out bench/results/lists.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pdrec_fast as pf
from pdrec_fast.evaluation import Evaluator, per_case

BUCKETS = (0, 1, 6, 21, 101)
"""Least training records of the targets of each bucket."""
K = 10


def described(model: pf.PDRec, split: pf.Split) -> dict[str, Any]:
    """Figures of the model's lists for the test cases."""
    counts = np.bincount(split.train.items, minlength=split.train.n_items)
    evaluator = Evaluator(split)
    ndcg = per_case(evaluator.all_ranks(model)["full"]["test"], "ndcg@10")
    bucket = np.searchsorted(BUCKETS, counts[split.test.targets], side="right") - 1
    indptr, items, times = split.test.histories.packed()
    rows = [slice(*bounds) for bounds in pairwise(indptr)]
    lists = model.recommend(
        k=K,
        history=[split.data.item_ids[items[row]].tolist() for row in rows],
        times=None if times is None else [times[row].tolist() for row in rows],
        unknown="skip",
    )
    figures = pf.list_metrics(lists, split.train)
    return {
        "ndcg@10": [float(f"{ndcg[bucket == b].mean():.4g}") for b in range(len(BUCKETS))],
        "coverage": round(figures["coverage"], 4),
        "gini": round(figures["gini"], 4),
        "mean_records": round(figures["mean_records"], 1),
        "cases": np.bincount(bucket, minlength=len(BUCKETS)).tolist(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is missing in ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m bench.lists", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name in ("--data", "--runs", "--fusion", "--out"):
        parser.add_argument(name, type=Path, required=True, metavar="PATH")
    parser.add_argument("--only", nargs="+", help="runs (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    done = set()
    if options.out.exists():
        done = {json.loads(line)["run"] for line in options.out.read_text().splitlines()}
    for line in map(json.loads, options.fusion.read_text().splitlines()):
        run = line["run"]
        if line["guides"] != "guide+linear" or run in done:
            continue
        if options.only and run not in options.only:
            continue
        name, _, seed = run.rpartition("-")
        name = name.rpartition("-")[0]
        split = pf.leave_one_out(pf.Interactions.from_file(options.data / f"{name}.inter"))
        model = pf.PDRec.load(options.runs / run / "model", device="cpu")
        found = {"run": run, "buckets": BUCKETS, "alone": described(model, split)}
        guides = {
            "guide": pf.DiffRec.load(options.runs / f"{name}-diffusion-{seed}", device="cpu"),
            "linear": pf.LinearDenoiser().fit(split),
        }
        shares = {key: pf.Share(**share) for key, share in line["shares"].items()}
        model.fusion = pf.Fusion(guides, shares, line.get("levels", ()))
        found["fused"] = described(model, split)
        with options.out.open("a") as stream:
            print(json.dumps(found), file=stream, flush=True)
        print(run, found["alone"], found["fused"], flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
