"""What each step takes on data of N generated records, more than memory may hold.

    python -m bench.large --out FOLDER --results bench/results/large.jsonl

Every step (``STEPS``, told in ``large_steps``) is a process of its own. Its seconds, those that a
processor worked for it and its largest resident memory are printed and make a line of
``--results``, and of FOLDER/steps.jsonl, by which a step that is done is not done again. Steps need
those before them; ``--only`` chooses some.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STEPS = ("records", "prepare", "open", "train", "evaluate", "guide", "preferences")
DONE = "steps.jsonl"
MEMORY = "1GB"
SIZES = {  # name -> (default, what it is)
    "records": (100_000_000, "in all"),
    "users": (5_000_000, "of the records"),
    "items": (1_000_000, "of the records"),
    "parts": (20, "of the files"),
    "store_parts": (10, "of the store"),
    "shares": (10, "of the users; one of them is opened, trained on and evaluated"),
    "validation_users": (100_000, "that the epoch is validated on"),
    "evaluated_users": (2_000, "that the encoder is tested on"),
    "guide_users": (2_000, "that the guide is trained on"),
    "guide_width": (64, "of the guide's hidden layer"),
    "part_size": (8_192, "users of a part of preferences"),
}


def measured(words: Sequence[str], **settings: str) -> tuple[str, dict[str, float]]:
    """Run a process with ``settings`` in its environment: its output; its seconds, those of the
    processor, and its largest resident memory in GiB.

    The last counts the memory of the process that starts it: this one must stay small.
    """
    start = time.perf_counter()
    environment = os.environ | settings
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        output = process.stdout.read().strip()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: exit status {process.returncode}")
    return output, {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
    }


def rows_of(folder: Path, sizes: dict[str, int]) -> list[dict[str, Any]]:
    """The rows of the steps that are done in a folder, which must be of these sizes."""
    file = folder / DONE
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for row in rows:
        if row["sizes"] != sizes:
            raise SystemExit(f"{file}: of other sizes, {row['sizes']}; give another --out")
    return rows


def row_of(step: str, options: argparse.Namespace, sizes: dict[str, int]) -> dict[str, Any]:
    """Do a step; what is written of it."""
    words = [sys.executable, "-m", "bench.large_steps", step, str(options.out)]
    words += [f"--memory={options.memory}", *(f"--{name}={sizes[name]}" for name in sizes)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(options.threads))
    told, figures = measured(words, **threads)
    return {"step": step, "sizes": sizes, "threads": options.threads} | figures | json.loads(told)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the steps that are missing in ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m bench.large", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON lines are added here")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, metavar="STEP")
    parser.add_argument("--memory", default=MEMORY, help=f"that DuckDB may use (default {MEMORY})")
    parser.add_argument("--threads", type=int, default=1, help="of every process (default 1)")
    for name, (default, of) in SIZES.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=default, help=f"{of} (default {default:,})")
    options = parser.parse_args(arguments)
    sizes = {name: getattr(options, name) for name in SIZES}
    done = {row["step"] for row in rows_of(options.out, sizes)}
    options.out.mkdir(parents=True, exist_ok=True)
    left = [step for step in STEPS if step in options.only and step not in done]
    for step in left:
        print(f"{step} ...", file=sys.stderr, flush=True)
        row = row_of(step, options, sizes)
        for file in (options.out / DONE, options.results):
            if file is not None:
                with file.open("a", encoding="utf-8") as stream:
                    print(json.dumps(row), file=stream)
        told = {key: value for key, value in row.items() if key not in ("sizes", "environment")}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
