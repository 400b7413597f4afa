"""What features of items bring where items have no records, on generated data with known ones.

A quarter of the items is taken out of the training. SASRec is trained without features and with
them, and tested on targets of both kinds, under ``full``::

    python -m bench.features --out bench/results/features.jsonl --seeds 3
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pdrec_fast as pf
from bench.machine import environment
from bench.target import CPU
from pdrec_fast.evaluation import Evaluator, per_case
from pdrec_fast.ragged import indptr_of

N_USERS, N_ITEMS, N_FEATURES, COLD = 4000, 2000, 64, 0.25


def without(train: pf.Interactions, items: np.ndarray) -> pf.Interactions:
    """The training interactions without the records of some items, bool [n_items]."""
    stays = ~items[train.items]
    indptr = indptr_of(stays)[train.indptr]
    times = None if train.timestamps is None else train.timestamps[stays]
    return replace(train, indptr=indptr, items=train.items[stays], timestamps=times)


def measured(split: pf.Split, cold: np.ndarray, seed: int) -> dict[str, Any]:
    """Test NDCG@10 under ``full``: all targets, those with training records, those without."""
    config = pf.RunConfig.from_preset("default", modules=(), seed=seed).pdrec
    model = pf.PDRec("sasrec", config, select_by="full", device="cpu").fit(split, progress=False)
    ranks = Evaluator(split).all_ranks(model)["full"]["test"]
    ndcg, of_cold = per_case(ranks, "ndcg@10"), cold[split.test.targets]
    found = {"all": ndcg, "warm": ndcg[~of_cold], "cold": ndcg[of_cold]}
    figures: dict[str, Any] = {key: float(f"{v.mean():.4g}") for key, v in found.items()}
    assert model.history is not None
    return figures | {"seconds": round(model.history.seconds, 1)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Append a line for every seed."""
    parser = argparse.ArgumentParser(prog="python -m bench.features", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 (default 1)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for seed in range(options.seeds):
        data = pf.synthetic(N_USERS, N_ITEMS, seed, n_features=N_FEATURES)
        split = pf.leave_one_out(data)
        cold = np.random.default_rng(seed).random(N_ITEMS) < COLD
        split = replace(split, train=without(split.train, cold))
        plain = replace(
            split,
            data=replace(split.data, item_features=None),
            train=replace(split.train, item_features=None),
        )
        line = {
            "seed": seed,
            "cold_targets": round(float(cold[split.test.targets].mean()), 3),
            "without": measured(plain, cold, seed),
            "with": measured(split, cold, seed),
            "environment": environment(torch.get_num_threads(), CPU),
        }
        print({key: value for key, value in line.items() if key != "environment"}, flush=True)
        with options.out.open("a") as stream:
            print(json.dumps(line), file=stream, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
