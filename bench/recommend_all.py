"""Recommendations for very many users into one file: seconds, users a second, memory.

A SASRec of the preset's size with fresh weights over generated histories: what is measured does
not depend on what it has learned. Memory is the growth of the process's peak over what the data and
the model take::

    python -m bench.recommend_all --users 250000 1000000 --out bench/results/recommend_all.jsonl
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pdrec_fast as pf
from bench.machine import environment
from bench.target import CPU
from pdrec_fast.pipeline.stages import peak_rss_gib
from pdrec_fast.ragged import indptr_of

N_ITEMS, K, WIDTH = 20_000, 20, 64


def generated(n_users: int) -> pf.Interactions:
    """Histories of 3 to 40 random items, the popular ones more often."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(3 + rng.geometric(0.12, n_users), 40)
    items = (N_ITEMS * rng.random(int(lengths.sum())) ** 2).astype(np.int32)
    return pf.Interactions(indptr_of(lengths), items, None, np.arange(n_users), np.arange(N_ITEMS))


def measured(n_users: int, suffix: str, threads: int) -> dict[str, Any]:
    """One file, in this process."""
    torch.set_num_threads(threads)
    data = generated(n_users)
    config = pf.RunConfig.from_preset("default", modules=()).pdrec
    model = pf.PDRec("sasrec", config, encoder_options={"width": WIDTH}, device="cpu")
    model.data, model.encoder = data, model.new_encoder(data.n_items)
    model.trained_items = np.ones(data.n_items, dtype=bool)
    model.recommend(data.user_ids[:1000], K)  # what the first call loads
    before = peak_rss_gib() or 0.0
    with tempfile.TemporaryDirectory() as folder:
        path, started = Path(folder) / f"all{suffix}", time.perf_counter()
        model.recommend_to_file(path, k=K, progress=False)
        seconds = time.perf_counter() - started
        size = path.stat().st_size
    return {
        "users": n_users,
        "items": N_ITEMS,
        "records": data.n_records,
        "k": K,
        "file": suffix,
        "seconds": round(seconds, 1),
        "users_per_second": round(n_users / seconds),
        "file_mib": round(size / 2**20, 1),
        "gib_before": round(before, 2),
        "gib_more": round((peak_rss_gib() or 0.0) - before, 2),
        "environment": environment(threads, CPU),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Append a line for each number of users and kind of file, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench.recommend_all", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--users", type=int, nargs="+", default=[250_000, 1_000_000])
    parser.add_argument("--files", nargs="+", default=[".parquet", ".csv"])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        line = measured(options.users[0], options.files[0], options.threads)
        with options.out.open("a") as stream:
            print(json.dumps(line), file=stream, flush=True)
        print({key: value for key, value in line.items() if key != "environment"}, flush=True)
        return 0
    for n_users in options.users:
        for suffix in options.files:
            ask = ["--users", str(n_users), "--files", suffix, "--threads", str(options.threads)]
            command = [sys.executable, "-m", "bench.recommend_all", "--here", *ask]
            subprocess.run([*command, "--out", str(options.out)], check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
