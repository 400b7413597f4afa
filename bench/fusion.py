"""What the fusion adds to the encoders that ``bench.backbones --runs`` keeps.

For every run, the diffusion model of the preset ``default`` is trained with the run's seed and kept
beside it, the shares of the guides are chosen on validation, and the encoder is tested alone and
with them. A line of JSON each has the shares, the seconds they cost, all figures, and p of a
paired t-test over users::

    python -m bench.fusion --data DIR --runs DIR --out bench/results/fusion.jsonl

What is in ``--out`` already is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy.stats import ttest_rel

import pdrec_fast as pf
from bench.machine import environment
from bench.target import CPU
from pdrec_fast.evaluation import AllRanks, Evaluator, per_case

GUIDES = {
    "guide+linear": ("guide", "linear"),
    "guide": ("guide",),
    "linear": ("linear",),
    "guide+linear+popularity": ("guide", "linear", "popularity"),
}
METRICS = ("ndcg@10", "hr@10")


def diffusion(folder: Path, split: pf.Split, seed: int) -> pf.DiffRec:
    """The preset's diffusion model, kept in ``folder``."""
    if folder.is_dir():
        return pf.DiffRec.load(folder, device="cpu")
    config = pf.RunConfig.from_preset("default", seed=seed).diffusion
    model = pf.DiffRec(config, device="cpu").fit(split, progress=False)
    model.save(folder)
    return model


def fuse(
    model: pf.PDRec, split: pf.Split, names: Sequence[str], guide: pf.DiffRec | None
) -> dict[str, float]:
    """Give ``model`` the shares of these guides; the seconds that it took."""
    seconds, guides = {}, dict[str, Any]()
    if guide is not None:
        assert guide.history is not None
        guides["guide"], seconds["guide"] = guide, round(guide.history.seconds, 1)
    started = time.perf_counter()
    if "linear" in names:
        guides["linear"] = pf.LinearDenoiser().fit(split)
        seconds["linear"] = round(time.perf_counter() - started, 1)
    if "popularity" in names:
        guides["popularity"] = pf.Popularity(split.train)
    started = time.perf_counter()
    model.fusion = pf.choose_shares(model, guides, split, progress=False)
    return seconds | {"shares": round(time.perf_counter() - started, 1)}


def compared(alone: AllRanks, fused: AllRanks) -> dict[str, Any]:
    """Both means of every metric, and p of their difference over users."""
    found: dict[str, Any] = {}
    for protocol, splits in alone.items():
        for on, ranks in splits.items():
            for metric in METRICS:
                before, after = per_case(ranks, metric), per_case(fused[protocol][on], metric)
                p = float(ttest_rel(after, before).pvalue) if (after != before).any() else 1.0
                figures = {"alone": before.mean(), "fused": after.mean(), "p": p}
                place = found.setdefault(protocol, {}).setdefault(on, {})
                place[metric] = {name: float(f"{value:.5g}") for name, value in figures.items()}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is missing in ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m bench.fusion", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--only", nargs="+", help="data sets (default: all)")
    parser.add_argument("--guides", nargs="+", choices=GUIDES, default=["guide+linear"])
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {(line["run"], line["guides"]) for line in map(json.loads, lines)}
    for directory in sorted(options.runs.iterdir()):
        name, _, seed = directory.name.rpartition("-")
        name = name.rpartition("-")[0]
        if not (directory / "model").is_dir() or (options.only and name not in options.only):
            continue
        missing = [label for label in options.guides if (directory.name, label) not in done]
        if not missing:
            continue
        split = pf.leave_one_out(pf.Interactions.from_file(options.data / f"{name}.inter"))
        evaluator = Evaluator(split)
        model = pf.PDRec.load(directory / "model", device="cpu")
        alone = evaluator.all_ranks(model)
        for label in missing:
            guide, names = None, GUIDES[label]
            if "guide" in names:
                guide = diffusion(options.runs / f"{name}-diffusion-{seed}", split, int(seed))
            seconds = fuse(model, split, names, guide)
            assert model.fusion is not None
            line = {
                "run": directory.name,
                "guides": label,
                "shares": {key: asdict(share) for key, share in model.fusion.shares.items()},
                "levels": model.fusion.levels,
                "seconds": seconds,
                "results": compared(alone, evaluator.all_ranks(model)),
                "environment": environment(torch.get_num_threads(), CPU),
            }
            model.fusion = None
            with options.out.open("a") as stream:
                print(json.dumps(line), file=stream, flush=True)
            _tell(line)
    return 0


def _tell(line: dict[str, Any]) -> None:
    parts = []
    for protocol in ("full", "paper"):
        found = line["results"][protocol]["test"]["ndcg@10"]
        gain = 100 * (found["fused"] / found["alone"] - 1)
        parts.append(
            f"{protocol} {found['alone']:.4f} -> {found['fused']:.4f} ({gain:+.1f} %, "
            f"p {found['p']:.0e})"
        )
    print(line["run"], line["guides"], *parts, line["seconds"], flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
