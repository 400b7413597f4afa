"""Ends jobs at random instants, continues them, and compares with jobs that nobody ended.

    python -m bench.kills --kills 1000 --out bench/results/kills.json

A job is a command of pdrec-fast in a folder of its own, on small generated data. It is started, and
ended after a random share of the time that it takes, by SIGKILL, SIGTERM or Ctrl-C; then the same
command is given again in the same folder, until it ends by itself. What is counted as a fault:

- ``different``: models, figures or files are not those of a job that nobody ended;
- ``half-written``: a JSON or safetensors file that cannot be read, after an end or at the close;
- ``leftover``: a file of a job that has ended by itself that an undisturbed one does not leave;
- ``refused``: the command ends by itself, and with an error;
- ``hang``: a process is still there a minute after it was asked to end.

Processes are forked from this one, which has imported everything, so that most of them are ended
within the job and not within Python's start. Jobs of two processes are ended one or both at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

import pdrec_fast as pf
from bench.processes import free_port, rank_environment
from pdrec_fast import cli

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_PATIENCE = 60.0
_SMALL = {
    "diffusion.epochs": 2,
    "diffusion.hidden": 8,
    "pdrec.epochs": 3,
    "encoder.width": 16,
    "n_draws": 16,
}
# What tells of time, of the machine or of how a job went.
_VOLATILE = {"seconds", "elapsed", "peak_rss_gib", "environment", "final"}


@dataclass(frozen=True)
class Job:
    """A command that leaves something in a folder.

    Attributes:
        words: its arguments; ``{inputs}`` and ``{out}`` stand for folders.
        processes: how many it is given to.
    """

    name: str
    words: tuple[str, ...]
    processes: int = 1


def jobs() -> list[Job]:
    """All that are tried; the first is an input of others."""
    settings = tuple(word for key, value in _SMALL.items() for word in ("--set", f"{key}={value}"))
    data = ("--data", "{inputs}/data.csv")
    of_run = ("--run", "{inputs}/run")
    guided = (*data, "--modules", "hbr,dpa,nns,fusion", *settings, "--quiet")
    return [
        Job("run", ("run", *guided, "--out", "{out}/run")),
        Job("run --final", ("run", *guided, "--final", "--out", "{out}/run")),
        Job("run of two", ("run", *guided, "--mesh", "users=2", "--out", "{out}/run"), 2),
        Job("run of two by items", ("run", *guided, "--mesh", "items=2", "--out", "{out}/run"), 2),
        Job(
            "study",
            (
                *("study", "ablation", *data, "--encoders", "sasrec", "--seeds", "1"),
                *(
                    "--jobs",
                    "1",
                    "--only",
                    "*sasrec-0",
                    "--quiet",
                    "--out",
                    "{out}/study",
                    *settings,
                ),
            ),
        ),
        Job("update", ("update", *of_run, *data, "--out", "{out}/run", "--quiet")),
        Job("prepare", ("prepare", *data, "--out", "{out}/store", "--parts", "3", "--quiet")),
        Job("preferences", ("preferences", *of_run, "--out", "{out}/parts", "--part-size", "16")),
        Job("recommend", ("recommend", *of_run, "--all", "--out", "{out}/all.csv")),
        Job("export", ("export", *of_run, "--out", "{out}/export", "--no-onnx")),
        Job(
            "tune",
            ("tune", *data, "--modules", "none", "--out", "{out}/tune", "--trials", "3", *settings),
        ),
    ]


def started(job: Job, inputs: Path, out: Path) -> list[int]:
    """The job's processes, forked from this one; output goes to ``out``.log."""
    port = free_port()
    words = [word.format(inputs=inputs, out=out) for word in job.words]
    found = []
    for rank in range(job.processes):
        child = os.fork()
        if child:
            found.append(child)
            continue
        _become(words, rank, job.processes, port, out)
    return found


def _become(words: list[str], rank: int, n: int, port: str, out: Path) -> None:
    """The child's life; does not return."""
    status = 1
    try:
        os.setsid()
        log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(rank_environment(rank, n, port))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["pdrec-fast", *words]
        cli.main()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def waited(processes: list[int], seconds: float) -> dict[int, int]:
    """Exit statuses of the processes that end within some seconds; negative: by a signal."""
    ends: dict[int, int] = {}
    until = time.monotonic() + seconds
    while len(ends) < len(processes) and time.monotonic() < until:
        for process in processes:
            if process not in ends:
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    ends[process] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return ends


def contents(folder: Path) -> dict[str, str]:
    """What a job has left, by file: a digest of what does not tell of time.

    Raises:
        ValueError: a file cannot be read.
    """
    return {str(file.relative_to(folder)): _digest(file) for file in _files(folder)}


def _files(folder: Path) -> Iterator[Path]:
    yield from (file for file in sorted(folder.rglob("*")) if file.is_file())


def _digest(file: Path) -> str:
    if file.suffix == ".json":
        text = json.dumps(_lasting(json.loads(file.read_text())), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as opened:
                opened.keys()
        except SafetensorError as error:
            raise ValueError(f"{file}: {error}") from None
    if file.suffix in (".pt2", ".txt", ".csv", ".db") and file.name != "all.csv":
        return "there"  # archives with times, tables with seconds, a data base
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        checks = {"checksum", "files"}  # of manifests, whose history has seconds
        return {k: _lasting(v) for k, v in value.items() if k not in _VOLATILE | checks}
    return [_lasting(each) for each in value] if isinstance(value, list) else value


class Campaign:
    """Ends of jobs, and what came of them.

    Args:
        folder: of inputs and jobs; emptied job by job.
        seed: of signals and instants.
    """

    def __init__(self, folder: Path, seed: int, tell: Callable[[str], None]) -> None:
        self.folder, self.tell = folder, tell
        self.random = random.Random(seed)
        self.faults: list[str] = []
        self.ends: Counter[str] = Counter()  # by job and signal
        self.inputs = folder / "inputs"
        self.inputs.mkdir(parents=True)
        data = pf.synthetic(n_users=80, n_items=150, seed=0)
        users, items = data.user_ids[data.record_users], data.item_ids[data.items]
        assert data.timestamps is not None
        rows = zip(users, items, data.timestamps, strict=True)
        lines = ["user_id,item_id,timestamp", *(f"{u},{i},{t:.0f}" for u, i, t in rows)]
        (self.inputs / "data.csv").write_text("\n".join(lines) + "\n")

    def undisturbed(self, job: Job) -> tuple[float, dict[str, str]]:
        """(seconds, contents) of the job when nothing ends it."""
        out = self._fresh()
        start = time.monotonic()
        ends = waited(started(job, self.inputs, out), 600)
        if len(ends) < job.processes or any(ends.values()):
            log = out.with_suffix(".log").read_text()
            raise SystemExit(f"{job.name}: {ends}\n{log}")
        if job.name == "run":
            shutil.copytree(out / "run", self.inputs / "run", dirs_exist_ok=True)
        return time.monotonic() - start, contents(out)

    def disturb(self, job: Job, n_ends: int) -> None:
        """End the job that often, in as many folders as it takes."""
        seconds, expected = self.undisturbed(job)
        left = n_ends
        while left > 0:
            out = self._fresh()
            left -= self._until_done(job, out, seconds, expected, left)
            done = n_ends - max(left, 0)
            self.tell(f"{job.name}: ended {done} times, {len(self.faults)} faults so far")

    def _until_done(
        self, job: Job, out: Path, seconds: float, expected: dict[str, str], most: int
    ) -> int:
        n_ends = 0
        while True:
            processes = started(job, self.inputs, out)
            instant = self.random.uniform(0, seconds) if n_ends < most else 600.0
            ends = waited(processes, instant)
            if len(ends) == len(processes):
                break
            n_ends += 1
            self._end(job, [each for each in processes if each not in ends])
            self._check_files(job, out)
        if any(ends.values()):
            log = out.with_suffix(".log").read_text()[-500:]
            self._fault(f"{job.name}: refused: {ends}: {log}")
            return n_ends
        try:
            found = contents(out)
        except ValueError as error:
            self._fault(f"{job.name}: half-written: {error}")
            return n_ends
        for file in sorted(expected.keys() | found.keys()):
            if file not in expected:
                self._fault(f"{job.name}: leftover: {file}")
            elif found.get(file) != expected[file]:
                self._fault(f"{job.name}: different: {file}")
        return n_ends

    def _fault(self, text: str) -> None:
        self.faults.append(text)
        self.tell(text)

    def _end(self, job: Job, processes: list[int]) -> None:
        kind = self.random.choice(SIGNALS)
        self.ends[f"{job.name}, {kind.name}"] += 1
        some = processes if self.random.random() < 0.5 else [self.random.choice(processes)]
        for process in some:
            os.kill(process, kind)
        # Where one of two is gone, torchrun ends the other.
        others = [each for each in processes if each not in some]
        gone = waited(some, _PATIENCE)
        for process in others:
            os.kill(process, signal.SIGTERM)
        gone |= waited(others, _PATIENCE)
        for process in set(processes) - gone.keys():
            self._fault(f"{job.name}: hang after {kind.name}")
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)

    def _check_files(self, job: Job, out: Path) -> None:
        for file in _files(out):
            if ".new" in str(file.relative_to(out)):
                continue  # being written; nobody reads it
            try:
                _digest(file)
            except (ValueError, OSError) as error:
                self._fault(f"{job.name}: half-written: {file.name}: {error}")

    def _fresh(self) -> Path:
        out = self.folder / "job"  # one name for all, as commands are written down
        shutil.rmtree(out, ignore_errors=True)
        out.with_suffix(".log").unlink(missing_ok=True)
        out.mkdir()
        return out


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kills", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="the name of one job; run is made in any case")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), given.seed, lambda text: print(text, flush=True))
        chosen = [job for job in jobs() if given.only in (None, job.name)]
        if chosen[0].name != "run":
            campaign.undisturbed(jobs()[0])
        for job in chosen:
            campaign.disturb(job, -(-given.kills // len(chosen)))
    result = {
        "ends": sum(campaign.ends.values()),
        "by job and signal": dict(sorted(campaign.ends.items())),
        "faults": campaign.faults,
    }
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    raise SystemExit(1 if campaign.faults else 0)


if __name__ == "__main__":
    main()
