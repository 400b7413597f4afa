"""One process that does the jobs of a day again and again, and what it holds after each day.

    python -m bench.soak --hours 2 --out soak.jsonl

A round is a day: records are read, models fitted, saved, loaded, updated, evaluated and asked, the
command is given and the service started, all but exports in this process (``bench/soak/jobs.py``),
on a sample of users of generated data, or of ``--data FILE``. After every round a line of JSON says
what the process holds (``bench/soak/readings.py``). At the end stands how memory grew in the second
half, and whether it, descriptors, threads and temporary files are flat; the exit status is 1 where
they are not, or where a job failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pdrec_fast as pf
from bench.machine import environment
from bench.soak.jobs import JOBS, Day, Job, data_of_day
from bench.soak.readings import COUNTED, reading, verdict
from bench.target import CPU

FEWEST_ROUNDS = 8
POINT = ("round", "hours", "private", "malloc", "objects", *COUNTED)


def rounds(
    jobs: Sequence[Job], everything: pf.Interactions, folder: Path, share: float
) -> Iterator[dict[str, Any]]:
    """What the process holds after each day, for ever.

    Args:
        everything: of whose users a day has some.
        folder: for the days' files; each day's are deleted at its end.
        share: of one core that this may take; it sleeps after every job.

    Yields:
        ``round``, ``hours``, the ``reading``'s numbers, CPU ``seconds`` by job, and ``failed``, by
        job, what was raised.
    """
    started = time.monotonic()
    number = 0
    while True:
        place = folder / "day"
        place.mkdir()
        day = Day(number, data_of_day(everything, number), place)
        seconds: dict[str, float] = {}
        failed: dict[str, str] = {}
        for job in jobs:
            if number % job.every:
                continue
            before, began = time.process_time(), time.monotonic()
            try:
                job.do(day)
            except Exception as error:
                failed[job.name] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
            seconds[job.name] = round(time.process_time() - before, 3)
            time.sleep(max(0.0, seconds[job.name] / share - (time.monotonic() - began)))
        del day
        shutil.rmtree(place)
        held = {name: round(value, 3) for name, value in reading(folder).items()}
        hours = (time.monotonic() - started) / 3600
        yield {"round": number, "hours": round(hours, 6), **held, "cpu": seconds, "failed": failed}
        number += 1


def soak(
    jobs: Sequence[Job],
    everything: pf.Interactions,
    out: Path,
    *,
    hours: float,
    share: float = 1.0,
    most: float = 8.0,
    n_rounds: int = FEWEST_ROUNDS,
) -> dict[str, Any]:
    """Rounds for so long, each a line of ``out``, and the verdict on them, its last line.

    Args:
        hours: when no further round begins.
        most: MiB an hour, see ``verdict``.
        n_rounds: that are done in any case.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as name, open(out, "w") as stream:
        tempfile.tempdir = name  # so that what the jobs leave there is seen
        try:
            for line in rounds(jobs, everything, Path(name), share):
                print(json.dumps(line), file=stream, flush=True)
                if line["hours"] >= hours and line["round"] + 1 >= n_rounds:
                    break
        finally:
            tempfile.tempdir = before
    summary = summary_of([json.loads(line) for line in out.read_text().splitlines()], most)
    with open(out, "a") as stream:
        print(json.dumps(summary), file=stream)
    return summary


def summary_of(lines: Sequence[dict[str, Any]], most: float) -> dict[str, Any]:
    """The verdict on rounds, with a few of them, and what failed."""
    return {
        "rounds": len(lines),
        "hours": lines[-1]["hours"],
        **verdict(lines, most),
        "failed": {name: why for line in lines for name, why in line["failed"].items()},
        "points": [
            {name: lines[at][name] for name in POINT}
            for at in np.linspace(0, len(lines) - 1, 9).round().astype(int)
        ],
        "environment": environment(torch.get_num_threads(), CPU),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, tell, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines")
    parser.add_argument("--data", type=Path, help="interactions instead of generated ones")
    parser.add_argument("--share", type=float, default=1.0, help="of a core (default: all of it)")
    parser.add_argument("--most", type=float, default=8.0, help="MiB an hour (default 8)")
    options = parser.parse_args(arguments)
    if not 0 < options.share <= 1:
        parser.error(f"--share must lie in (0, 1], got {options.share}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of small data there is much to say
    everything = pf.synthetic(1000, 500)
    if options.data is not None:
        everything = pf.Interactions.from_file(options.data)
    told = {"hours": options.hours, "share": options.share, "most": options.most}
    summary = soak(JOBS, everything, options.out, **told)
    print(json.dumps(summary, indent=1))
    return int(not summary["flat"] or bool(summary["failed"]))


if __name__ == "__main__":
    raise SystemExit(main())
