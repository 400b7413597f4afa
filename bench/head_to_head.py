"""SASRec of pdrec_fast and of RecTools on the same split: seconds an epoch, and to a quality.

Each side trains in a process of its own, on as many threads as it is told, and writes a line of
JSON after every epoch: the seconds it trained, and NDCG@10 and HR@10 of validation and test (full
ranking) by this package's evaluator, whose time does not count. Both read the same records of the
same users, with the same length, width, blocks, heads, dropout, batches, rate and number of
negatives. What differs is theirs: RecTools pads sequences and draws negatives for every token,
pdrec_fast packs them and (``loss="shared_softmax"``) shares the negatives of a batch.

RecTools needs an environment with both packages::

    python -m venv .rectools && .rectools/bin/pip install '.[rectools]'
    for side in ours rectools; do
      .rectools/bin/python -m bench.head_to_head --side $side --data FILE --out $side.jsonl
    done
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

import pdrec_fast as pf
from bench.machine import environment
from bench.target import CPU
from pdrec_fast.data import Split
from pdrec_fast.evaluation import Evaluator, Scorer
from pdrec_fast.evaluation.metrics import summarize

# Called after every epoch with the seconds it trained; returns whether to go on.
EpochEnd = Callable[[float, Scorer], bool]


@dataclass(frozen=True)
class Settings:
    """What both sides are told.

    Attributes:
        length, width, blocks, heads, dropout: of SASRec.
        batch_size: users per step.
        negatives: for every positive.
        loss: of pdrec_fast; RecTools' is its sampled softmax.
        more: options of the side alone, by its own names.
    """

    length: int = 50
    width: int = 64
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.2
    batch_size: int = 128
    negatives: int = 256
    loss: str = "shared_softmax"
    lr: float = 1e-3
    epochs: int = 20
    seed: int = 0
    more: dict[str, Any] = field(default_factory=dict)


def train_ours(split: Split, settings: Settings, epoch_end: EpochEnd) -> None:
    """``pf.PDRec`` without modules, by dot products."""
    shared = settings.loss == "shared_softmax"
    options = {
        "similarity": "dot",
        "temperature": 1.0,
        "loss": settings.loss,
        "lr": settings.lr,
        "lr_decay": 1.0,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        ("shared_negatives" if shared else "random_negatives"): settings.negatives,
    }
    encoder = {"max_length": settings.length, "width": settings.width, "blocks": settings.blocks}
    encoder |= {"heads": settings.heads, "dropout": settings.dropout}
    options |= settings.more
    model = pf.PDRec("sasrec", modules=(), encoder_options=encoder, device="cpu", **options)
    model.encoder = model.new_encoder(split.train.n_items)
    task = model.training_task(split.train)
    for epoch in range(settings.epochs):
        started = time.perf_counter()
        task.train_epoch(epoch)
        if not epoch_end(time.perf_counter() - started, model):
            return


def train_rectools(split: Split, settings: Settings, epoch_end: EpochEnd) -> None:
    """See ``bench.rectools``; only this side needs RecTools."""
    from bench import rectools

    rectools.train(split, settings, epoch_end)


SIDES = {"ours": train_ours, "rectools": train_rectools}


def first_users(data: pf.Interactions, n: int) -> pf.Interactions:
    """The first users of ``data``, with all its items."""
    end = data.indptr[n]
    return pf.Interactions(
        indptr=data.indptr[: n + 1],
        items=data.items[:end],
        timestamps=None if data.timestamps is None else data.timestamps[:end],
        user_ids=data.user_ids[:n],
        item_ids=data.item_ids,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one side; lines of JSON go to ``--out``, or are printed."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    data = pf.Interactions.from_file(options.data)
    if options.users:
        data = first_users(data, min(options.users, data.n_users))
    split = pf.leave_one_out(data)
    names = [name for name in asdict(Settings()) if name != "more"]
    settings = Settings(**{name: getattr(options, name) for name in names}, more=dict(options.set))
    stream = options.out.open("w") if options.out else sys.stdout
    try:
        _record(options, split, settings, stream)
    finally:
        if options.out:
            stream.close()
    return 0


def _record(options: argparse.Namespace, split: Split, settings: Settings, stream: TextIO) -> None:
    def write(**line: Any) -> None:
        print(json.dumps({"side": options.side} | line), file=stream, flush=True)

    write(
        data=options.data.name,
        users=split.data.n_users,
        items=split.data.n_items,
        settings=asdict(settings),
        environment=environment(options.threads, CPU),
    )
    evaluator = Evaluator(split)
    seconds: list[float] = []

    def epoch_end(took: float, scorer: Scorer) -> bool:
        seconds.append(took)
        n_epochs, elapsed = len(seconds), sum(seconds)
        last = n_epochs == settings.epochs or elapsed >= options.budget
        quality = {}
        if last or n_epochs % options.every == 0:
            for name, ranks in evaluator.all_ranks(scorer, ["full"])["full"].items():
                found = summarize(ranks, ks=(10,))
                quality[name] = {metric: found[metric] for metric in ("ndcg@10", "hr@10")}
        write(epoch=n_epochs, seconds=took, elapsed=elapsed, **quality)
        return not last

    started = time.perf_counter()
    SIDES[options.side](split, settings, epoch_end)
    quarters = np.percentile(seconds, [25, 50, 75])
    write(
        epochs=len(seconds),
        median_seconds=quarters[1],
        iqr_seconds=quarters[2] - quarters[0],
        least_seconds=min(seconds),
        with_evaluation_seconds=time.perf_counter() - started,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.head_to_head", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--side", choices=sorted(SIDES), required=True)
    parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    parser.add_argument("--users", type=int, metavar="N", help="only the first N (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument(
        "--every", type=int, default=1, metavar="EPOCHS", help="evaluate so often (default 1)"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=float("inf"),
        metavar="SECONDS",
        help="of training; no epoch begins after it",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="instead of printing")
    for name, value in asdict(Settings()).items():
        if name != "more":
            shown = f"(default {value})"
            parser.add_argument(
                f"--{name.replace('_', '-')}", type=type(value), default=value, help=shown
            )
    parser.add_argument(
        "--set",
        type=_setting,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="of PDRecConfig or of RecTools' SASRecModel, as JSON or plain text",
    )
    return parser


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    sys.exit(main())
