"""What a training over a mesh takes of each process, by formula; and what it was, here.

    python -m bench.scale                     # the tables of docs/scale.md
    python -m bench.scale --measure --data ../shared/data/beauty.inter

The formulas count what grows with items, users or width. A test holds them against what a training
allocates and sends.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import free_port, rank_environment

FP32, INT64, BF16 = 4, 8, 2


@dataclass(frozen=True)
class Cost:
    """Of one process.

    Attributes:
        memory: bytes that stay from step to step.
        step: bytes of a step's largest temporaries.
        summed: bytes of each step that are summed over some processes, by how many these are. In a
            ring of P, each process sends ``2 (P - 1) / P`` times as much.
    """

    memory: int
    step: int
    summed: dict[int, int]

    @property
    def sent(self) -> float:
        """Bytes that each process sends in a step."""
        return sum(2 * (p - 1) / p * payload for p, payload in self.summed.items() if p > 1)


def diffusion_cost(
    n_items: int, hidden: int, batch: int, users: int, items: int, *, narrow: bool = False
) -> Cost:
    """Of TI-DiffRec with one hidden layer.

    Weights, gradients and two moments of 2 N H / B numbers in float32; with products in bfloat16
    narrow weights and their gradients beside them. A step has x_t and the error of S / A users and
    N / B items. Sums along the items: S / A rows of H numbers forward and back; along the users:
    every gradient.

    Args:
        batch: S, users of a step; users, items: A and B, the mesh.
        narrow: bfloat16, with kernels that never store x_t.
    """
    own_items, own_users = -(-n_items // items), -(-batch // users)
    tables = 2 * own_items * hidden + own_items
    memory = 4 * FP32 * tables + (2 * BF16 * 2 * own_items * hidden if narrow else 0)
    pairs = own_users * own_items
    step = pairs * BF16 if narrow else 2 * pairs * FP32
    along_items = 2 * own_users * hidden * FP32 if items > 1 else 0
    along_users = tables * FP32 if users > 1 else 0
    summed = {items: along_items}
    summed[users] = summed.get(users, 0) + along_users
    return Cost(memory, step, summed)


def encoder_cost(
    n_items: int, width: int, rows: int, users: int, items: int, *, layers: int = 0
) -> Cost:
    """Of a sequence encoder with an item table.

    The table, its gradient and two moments, N d / B numbers each. A step sends the rows that it
    touches, R of them: their gradients to all, and where the table is shared, the rows themselves
    along the items; and everybody's gradient of the layers.

    Args:
        rows: R, distinct items of everybody's step: inputs, next items and negatives.
        layers: numbers in the encoder's layers.
    """
    own_items = -(-n_items // items)
    memory = 4 * FP32 * (own_items * width + layers)
    summed = {users * items: FP32 * (rows * width + layers)}
    if items > 1:
        summed[items] = summed.get(items, 0) + FP32 * rows * width
    return Cost(memory, 2 * FP32 * rows * width, summed)


def tables() -> str:
    """The tables of docs/scale.md."""
    gib, lines = 2**30, []
    lines += [
        "TI-DiffRec, 10,000,000 items, 1,000 hidden units, 4,096 users a step, bfloat16, 8 GPUs:",
        "",
        "| mesh | memory, GiB | temporaries, GiB | sent a step, MiB | at 400 GB/s, ms | products "
        "at 400 TFLOP/s, ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    n_items, hidden, batch = 10_000_000, 1_000, 4_096
    products = 5 * 2 * batch * n_items * hidden / 8 / 400e12 * 1e3
    for users, items in ((8, 1), (4, 2), (2, 4), (1, 8)):
        cost = diffusion_cost(n_items, hidden, batch, users, items, narrow=True)
        lines.append(
            f"| users={users}, items={items} | {cost.memory / gib:.0f} | {cost.step / gib:.1f} | "
            f"{cost.sent / 2**20:,.0f} | {cost.sent / 400e9 * 1e3:.1f} | {products:.0f} |"
        )
    lines += [
        "",
        "SASRec, 10,000,000 items of width 64, 8 processes, 100,000 distinct items a step:",
        "",
        "| mesh | memory, GiB | sent a step, MiB | at 400 GB/s, ms | at 10 GB/s, ms |",
        "| --- | --- | --- | --- | --- |",
    ]
    for users, items in ((8, 1), (4, 2), (1, 8)):
        cost = encoder_cost(n_items, 64, 100_000, users, items)
        lines.append(
            f"| users={users}, items={items} | {cost.memory / gib:.1f} | "
            f"{cost.sent / 2**20:.0f} | {cost.sent / 400e9 * 1e3:.2f} | "
            f"{cost.sent / 10e9 * 1e3:.0f} |"
        )
    return "\n".join(lines)


def measured(data: Path, n_epochs: int) -> list[dict[str, Any]]:
    """Seconds of an epoch of both models: one process on one and on two threads, two on one each.

    The three take turns, so that the machine's moods meet all of them.
    """
    setups = [(1, 1, 1), (1, 1, 2), (2, 1, 1), (1, 2, 1)]  # users, items, threads
    seconds: dict[tuple[str, tuple[int, int, int]], list[float]] = {}
    for model in ("sasrec", "diffusion"):
        for _ in range(n_epochs):
            for setup in setups:
                seconds.setdefault((model, setup), []).append(_epoch(data, model, *setup))
    rows = []
    for (model, (users, items, threads)), found in seconds.items():
        rows.append(
            {
                "model": model,
                "users": users,
                "items": items,
                "threads": threads,
                "seconds": round(statistics.median(found), 3),
                "spread": round(max(found) - min(found), 3),
                "epochs": len(found),
            }
        )
    return rows


def _epoch(data: Path, model: str, users: int, items: int, threads: int) -> float:
    """Seconds of one epoch, the second of two: the first warms up."""
    n = users * items
    port = free_port()
    words = [sys.executable, "-m", "bench.scale", "--epoch", model, "--data", str(data)]
    words += ["--mesh", f"{users},{items}", "--threads", str(threads)]
    processes = []
    for rank in range(n):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        environment |= rank_environment(rank, n, port)
        processes.append(
            subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{' '.join(words)}: failed")
    return float(outputs[0])


def one_epoch(data: Path, model: str, mesh_sizes: str, threads: int) -> None:
    """What every process of a measurement does; the first prints the seconds."""
    import time
    import warnings

    import torch

    import pdrec_fast as pf

    warnings.simplefilter("ignore")  # of data without times, once for each process
    torch.set_num_threads(threads)
    users, items = map(int, mesh_sizes.split(","))
    split = pf.leave_one_out(pf.Interactions.from_file(data))
    with pf.Mesh(users, items, device="cpu") as mesh:
        if model == "sasrec":
            config = pf.RunConfig.from_preset("default", modules=()).pdrec
            fitted = pf.PDRec("sasrec", config, device="cpu")
            fitted.encoder = fitted.encoder_for(split)
            fitted.data = split.data
            task: Any = fitted.training_task(split.train, mesh=mesh)
        else:
            diffusion = pf.DiffRec(hidden=(256,), batch_size=512, device="cpu")
            diffusion.denoiser = diffusion.new_denoiser(split.train.item_ids)
            task = diffusion.training_task(split.train, mesh=mesh)
        for epoch in range(2):
            mesh.any(False)
            start = time.perf_counter()
            task.train_epoch(epoch)
            mesh.any(False)
        if mesh.is_first:
            print(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epoch", help=argparse.SUPPRESS)
    parser.add_argument("--mesh", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.epoch:
        one_epoch(given.data, given.epoch, given.mesh, given.threads)
    elif given.measure:
        for row in measured(given.data, given.repeats):
            print(json.dumps({"data": given.data.stem, **row}))
    else:
        print(tables())


if __name__ == "__main__":
    main()
