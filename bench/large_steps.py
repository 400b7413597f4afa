"""The steps of ``bench.large``, each run in a process of its own: ``records`` generates them,
``prepare`` makes a store of them, ``open`` opens one share of its users, ``train`` fits SASRec to
that share for an epoch, ``evaluate`` tests it on a sample under ``full``, ``guide`` fits a DiffRec
to a sample, and ``preferences`` infers one part of its preferences.

A step prints JSON: its phases, each with its seconds and the process's peak memory so far; some lie
within others.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pdrec_fast as pf
from bench.large import MEMORY, SIZES
from bench.machine import environment
from bench.target import CPU
from pdrec_fast.ragged import indptr_of

Sizes = argparse.Namespace  # the integers of ``bench.large.SIZES``, and what DuckDB may use


class Phases(dict[str, dict[str, float]]):
    """Seconds, those of the processor, and peak memory of each part of a step, told at its end."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start, worked = time.perf_counter(), time.process_time()
        yield
        self[name] = {
            "seconds": round(time.perf_counter() - start, 2),
            "cpu_seconds": round(time.process_time() - worked, 2),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
        print(f"  {name}: {self[name]}", file=sys.stderr, flush=True)

    def told(self, task: Any) -> Any:
        """``task``, a ``TrainingTask``, whose epochs and validations are phases."""

        def as_phase(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
            def told(*given: Any) -> Any:
                with self.phase(name):
                    return run(*given)

            return told

        task.train_epoch = as_phase("epoch", task.train_epoch)
        task.validate = as_phase("validation", task.validate)
        return task


def write_records(
    folder: Path, n_records: int, n_parts: int, n_users: int, n_items: int, seed: int = 0
) -> None:
    """Write records in Parquet parts, one after the other: users by chance, items by Zipf's law,
    times of one year. Parts that are there are kept.

    Args:
        folder: created.
    """
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    shares = np.cumsum(1 / np.arange(1, n_items + 1))
    # So that an id tells nothing of how popular its item is.
    names = np.random.default_rng(seed).permutation(n_items)
    for part, size in enumerate(np.diff(np.linspace(0, n_records, n_parts + 1).astype(int))):
        file, fresh = folder / f"part-{part:05}.parquet", folder / f".part-{part:05}.new"
        if file.exists():
            continue
        random = np.random.default_rng((seed, part))
        ranks = np.searchsorted(shares, random.random(size) * shares[-1])
        table = pyarrow.table(
            {
                "user_id": random.integers(0, n_users, size),
                "item_id": names[ranks],
                "timestamp": random.integers(1_700_000_000, 1_731_536_000, size),
            }
        )
        pyarrow.parquet.write_table(table, fresh)
        os.replace(fresh, file)


def records(folder: Path, sizes: Sizes, phases: Phases) -> dict[str, Any]:
    place = folder / "records"
    with phases.phase("generate"):
        write_records(place, sizes.records, sizes.parts, sizes.users, sizes.items)
    return {"mib": round(sum(file.stat().st_size for file in place.iterdir()) / 2**20)}


def prepare(folder: Path, sizes: Sizes, phases: Phases) -> dict[str, Any]:
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    settings = {"memory": sizes.memory, "threads": torch.get_num_threads()}
    with phases.phase("prepare"):
        pf.prepare(folder / "records", folder / "store", parts=sizes.store_parts, **settings)
    place = folder / "store"
    return {
        "memory": sizes.memory,
        "mib": round(sum(file.stat().st_size for file in place.iterdir()) / 2**20),
    }


def opened(folder: Path, sizes: Sizes, phases: Phases) -> pf.Interactions:
    """The first share of the users."""
    with phases.phase("open"):
        return pf.Interactions.from_store(folder / "store", part=(0, sizes.shares))


def split_of(folder: Path, sizes: Sizes, phases: Phases) -> pf.Split:
    data = opened(folder, sizes, phases)
    with phases.phase("split"):
        return pf.leave_one_out(data)


def open_store(folder: Path, sizes: Sizes, phases: Phases) -> dict[str, Any]:
    data = opened(folder, sizes, phases)
    with phases.phase("fingerprint"):
        data.fingerprint()
    return {"summary": data.summary()}


def train(folder: Path, sizes: Sizes, phases: Phases) -> dict[str, Any]:
    split = split_of(folder, sizes, phases)
    config = replace(
        pf.PRESETS["default"].pdrec,
        modules=(),
        table_optimizer="rows",
        validation_users=sizes.validation_users,
    )

    class Told(pf.PDRec):
        def training_task(self, *given: Any) -> Any:
            return phases.told(super().training_task(*given))

    model = Told("sasrec", config, device="cpu")
    with phases.phase("fit"):
        model.fit(split, epochs=1)
    with phases.phase("save"):
        model.save(folder / "encoder")
    history = model.history
    assert history is not None
    return {
        "summary": split.train.summary(),
        "loss": round(history.losses[0], 4),
        "ndcg@10": round(history.best_value, 5),
    }


def evaluate(folder: Path, sizes: Sizes, phases: Phases) -> dict[str, Any]:
    with phases.phase("load"):
        model = pf.PDRec.load(folder / "encoder", device="cpu")
    split = split_of(folder, sizes, phases)
    order = np.random.default_rng(0).permutation(len(split.test))
    sample = replace(split, test=split.test[np.sort(order[: sizes.evaluated_users])])
    with phases.phase("evaluate"):
        found = model.evaluate(sample, on=("test",), protocols=("full",))["full"]["test"]
    return {"cases": len(sample.test), "ndcg@10": round(found["ndcg@10"], 5)}


def guide(folder: Path, sizes: Sizes, phases: Phases) -> dict[str, Any]:
    train = split_of(folder, sizes, phases).train
    order = np.random.default_rng(0).permutation(train.n_users)
    lengths = np.diff(train.indptr)
    lengths[order[sizes.guide_users :]] = 0
    kept = np.repeat(lengths > 0, np.diff(train.indptr))
    sample = replace(
        train,
        indptr=indptr_of(lengths),
        items=train.items[kept],
        timestamps=None if train.timestamps is None else train.timestamps[kept],
    )
    config = replace(pf.PRESETS["default"].diffusion, hidden=(sizes.guide_width,))
    model = pf.DiffRec(config, device="cpu")
    with phases.phase("fit"):
        model.fit(sample, epochs=1)
    # Of a sample of the records that it is asked about, which are no others.
    model.trained_on = None
    with phases.phase("save"):
        model.save(folder / "guide")
    return {"summary": sample.summary() | {"users": sizes.guide_users}}


def preferences(folder: Path, sizes: Sizes, phases: Phases) -> dict[str, Any]:
    with phases.phase("load"):
        model = pf.DiffRec.load(folder / "guide", device="cpu")
    train = split_of(folder, sizes, phases).train
    preset, place = pf.PRESETS["default"], folder / "preferences"
    with phases.phase("one part"):
        pf.Preferences.infer_parts(
            model,
            train,
            place,
            top_m=preset.top_m,
            omega_m=preset.omega_m,
            n_draws=preset.n_draws,
            part_size=sizes.part_size,
            rank=0,
            world=-(-train.n_users // sizes.part_size),
        )
    files = [file for file in place.iterdir() if file.suffix == ".safetensors"]
    mib = round(sum(file.stat().st_size for file in files) / 2**20)
    return {"users": train.n_users, "parts": len(files), "mib": mib}


FUNCTIONS: dict[str, Callable[[Path, Sizes, Phases], dict[str, Any]]] = {
    "records": records,
    "prepare": prepare,
    "open": open_store,
    "train": train,
    "evaluate": evaluate,
    "guide": guide,
    "preferences": preferences,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.large_steps")
    parser.add_argument("step", choices=FUNCTIONS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memory", default=MEMORY)
    for name, (default, _) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    phases = Phases()
    found = FUNCTIONS[options.step](options.folder, options, phases)
    machine = environment(torch.get_num_threads(), CPU)
    machine["peak_memory"] = "largest resident set of a process, pages of maps that it read with it"
    print(json.dumps({"phases": phases, **found, "environment": machine}))


if __name__ == "__main__":
    main()
