"""Runs every target for its share of the time, each in a process of its own::

    python -m bench.fuzz --seconds 600

or until each has had its share of a number of executions, in short turns, which are counted in
``counts.json`` for this code: the same command goes on where it was::

    python -m bench.fuzz --executions 10000000 --jobs 2

By atheris where it is installed (``pip install atheris``), which is led by what the code does with
an input; else, or with ``--seeded``, by seeded changes of a small corpus. Prints how often each
target ran; inputs that broke a property are kept in ``--out``, and the status is then 1.
``--only TARGET --input FILE`` runs one of them again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.fuzz.counts import Count, Counts
from bench.fuzz.engine import TARGETS, Last, execute, in_memory

_GRACE = 300.0  # seconds beyond its time that a process may take to begin and to end
_TURN = 120.0  # seconds of a target, then it is another's turn
# One thread a process: with so little data more of them only wait for each other.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the targets; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.input:
        message = execute(TARGETS[options.only[0]], options.input.read_bytes())
        print(message or "nothing is broken")
        return int(message is not None)
    options.out.mkdir(parents=True, exist_ok=True)
    counts = Counts(options.out / "counts.json")
    if options.executions is None:
        seconds = 600.0 if options.seconds is None else options.seconds
        share = seconds * options.jobs / len(options.only)
        _in_jobs([_turn(name, counts, options, share) for name in options.only], counts, options)
    else:
        _campaign(counts, options)
    print(counts.table(options.only))
    return int(any(counts[name].broken for name in options.only))


def _campaign(counts: Counts, options: argparse.Namespace) -> None:
    """Turns of all targets, one after the other, until each has its share of the executions, or
    the time has passed."""
    end = time.monotonic() + (float("inf") if options.seconds is None else options.seconds)
    weights = {name: TARGETS[name].weight for name in options.only}
    shares = {
        name: -(-options.executions * weight // sum(weights.values()))
        for name, weight in weights.items()
    }
    names = list(options.only)
    while names and (remaining := end - time.monotonic()) > 0:
        before = {name: counts[name].executions for name in names}
        seconds = min(_TURN, remaining * options.jobs / len(names))
        left = {name: shares[name] - before[name] for name in names}
        turns = [_turn(name, counts, options, seconds, n) for name, n in left.items() if n > 0]
        _in_jobs(turns, counts, options, end)
        names = [name for name in names if counts[name].executions > before[name]]


def _turn(
    name: str,
    counts: Counts,
    options: argparse.Namespace,
    seconds: float,
    executions: int | None = None,
) -> dict[str, Any]:
    """What the next process of a target is to do; other inputs than those before it had."""
    seed = zlib.crc32(f"{options.seed} {name} {counts[name].executions}".encode()) >> 1
    bounds = [n for n in (executions, TARGETS[name].at_once) if n is not None]
    values = {
        "name": name,
        "seed": seed,
        "seconds": seconds,
        "executions": min(bounds, default=None),
    }
    return values | {"seeded": options.seeded, "out": str(options.out)}


def _in_jobs(
    turns: list[dict[str, Any]],
    counts: Counts,
    options: argparse.Namespace,
    end: float = float("inf"),
) -> None:
    """So many processes at once, none begun after ``end``; each is told and counted when it
    ends."""

    def run(turn: dict[str, Any]) -> None:
        begin = time.monotonic()
        if begin > end:
            return
        executions, way, broken = _in_a_process(turn)
        counts.add(turn["name"], Count(executions, time.monotonic() - begin, broken))
        lines = [f"{turn['name']:18}{executions:>11,} {way}, {len(broken)} broken"]
        print("\n".join([*lines, *(f"  {file}: {text}" for file, text in broken.items())]))
        sys.stdout.flush()

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, turns))


def _in_a_process(turn: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
    """Executions of a target, what led it, and what is broken by file; a process that ends by
    itself is broken, too."""
    out, name = Path(turn["out"]), turn["name"]
    with tempfile.TemporaryDirectory(prefix="pdrec-fuzz-", dir=in_memory()) as place:
        folder, last, told = (Path(place) / each for each in ("folder", "last", "told"))
        folder.mkdir()
        given = turn | {"folder": str(folder), "last": str(last), "told": str(told)}
        command = [sys.executable, "-X", "faulthandler", "-m", "bench.fuzz.child"]
        command.append(json.dumps(given))
        limit, environment = turn["seconds"] + _GRACE, os.environ | _ONE_THREAD
        environment["TMPDIR"] = place
        with open(out / f"{name}.log", "wb") as log:
            try:
                status = subprocess.run(
                    command, stdout=log, stderr=log, timeout=limit, env=environment
                )
                ended = f"the process ended with status {status.returncode}"
            except subprocess.TimeoutExpired:
                ended = "the process did not end"
        if told.exists():
            found = json.loads(told.read_text())
            return found["executions"], found["by"], found["broken"]
        content, executions = Last.read(last) if last.exists() else (b"", 0)
    crashed = out / f"{name}-crash"
    crashed.write_bytes(content)
    return executions, "crashed", {str(crashed): f"{ended}; {log.name} says more"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, help="for all (default 600, or any time)")
    parser.add_argument("--executions", type=int, help="for all, earlier ones counted")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default 1)")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeded", action="store_true", help="without atheris")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), metavar="FOLDER")
    parser.add_argument("--input", type=Path, metavar="FILE", help="run this once")
    return parser


if __name__ == "__main__":
    sys.exit(main())
