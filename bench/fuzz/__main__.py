"""Runs every target for its share of the time, each in a process of its own::

    python -m bench.fuzz --seconds 600

By atheris where it is installed (``pip install atheris``), which is led by what the code does with
an input; else, or with ``--seeded``, by seeded changes of a small corpus. Prints how often each
target ran; inputs that broke a property are kept in ``--out``, and the status is then 1.
``--only TARGET --input FILE`` runs one of them again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.fuzz.engine import TARGETS, execute

_GRACE = 300.0  # seconds beyond its share that a process may take to begin and to end


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the targets; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.input:
        message = execute(TARGETS[options.only[0]], options.input.read_bytes())
        print(message or "nothing is broken")
        return int(message is not None)
    options.out.mkdir(parents=True, exist_ok=True)
    total = n_broken = 0
    for number, name in enumerate(options.only):
        executions, way, broken = _in_a_process(name, options.seed + number, options)
        total += executions
        n_broken += len(broken)
        print(f"{name:18}{executions:>11,} executions {way:8}{len(broken):>3} broken", flush=True)
        for file, message in broken.items():
            print(f"  {file}: {message}", flush=True)
    print(f"{'in all':18}{total:>11,} executions {'':8}{n_broken:>3} broken")
    return int(n_broken > 0)


def _in_a_process(
    name: str, seed: int, options: argparse.Namespace
) -> tuple[int, str, dict[str, str]]:
    """Executions of a target, what led it, and what is broken by file; a process that ends by
    itself is broken, too."""
    out, seconds = options.out, options.seconds / len(options.only)
    told, last = out / f"{name}.json", out / f"{name}.last"
    told.unlink(missing_ok=True)
    command = [sys.executable, "-X", "faulthandler", "-m", "bench.fuzz.child"]
    command += [name, str(seconds), str(seed), str(out), str(options.seeded)]
    with open(out / f"{name}.log", "wb") as log:
        try:
            status = subprocess.run(command, stdout=log, stderr=log, timeout=seconds + _GRACE)
            ended = f"the process ended with status {status.returncode}"
        except subprocess.TimeoutExpired:
            ended = "the process did not end"
    if told.exists():
        last.unlink(missing_ok=True)
        found = json.loads(told.read_text())
        return found["executions"], found["by"], found["broken"]
    crashed = out / f"{name}-crash"
    if last.exists():
        last.replace(crashed)
    return 0, "", {str(crashed): f"{ended}; {log.name} says more"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=600.0, help="for all (default 600)")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeded", action="store_true", help="without atheris")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), metavar="FOLDER")
    parser.add_argument("--input", type=Path, metavar="FILE", help="run this once")
    return parser


if __name__ == "__main__":
    sys.exit(main())
