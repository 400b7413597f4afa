"""Run a study: claim its directory, do what is not done yet, write the tables."""

from __future__ import annotations

import fnmatch
import json
import os
import platform
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import pdrec_fast
from pdrec_fast.errors import CheckpointError
from pdrec_fast.files import differences, make_directory, read_json, write_json
from pdrec_fast.pipeline import LOG
from pdrec_fast.presets import DEFAULT, FORMER_NAMES, PRESETS, current_name
from pdrec_fast.sole_user import LOCK, sole_user
from pdrec_fast.studies.collect import collect
from pdrec_fast.studies.finished import STUDY
from pdrec_fast.studies.job_process import Dataset, is_done, job_config, job_directory, read_marker
from pdrec_fast.studies.jobs import Job, Kind, choose_encoders, list_jobs
from pdrec_fast.studies.pool import Task, run_tasks
from pdrec_fast.studies.schema import need_extra

_CHILD = "from pdrec_fast.studies.job_process import main; main()"
# What a study's own jobs differ in.
_NOT_TO_SET = ("diffusion.weighting", "diffusion.seed", "pdrec.modules", "pdrec.seed")


def run_study(
    kind: Kind,
    data: Sequence[str | Path],
    *,
    out: str | Path,
    source: str | Path | None = None,
    presets: Sequence[str] | None = None,
    encoders: Iterable[str] | None = None,
    seeds: int = 5,
    settings: Sequence[str] = (),
    reading: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    jobs: int = 1,
    threads: int | None = None,
    progress: bool = True,
    command: str = "",
) -> dict[str, str]:
    """Train and test everything that one of the paper's tables or figures shows.

    ``main`` is Table 1, ``ablation`` Fig. 4, ``universality`` Fig. 5 and ``cross-domain`` Table 3.
    Each job is a run in a process of its own. A study that was interrupted continues when it is
    started again; studies with one ``out`` share their runs and tables.

    Args:
        kind: which study.
        data: files of interactions. A data set is called by its file's stem; that of
            ``cross-domain``, which takes one file, ``source-to-target``.
        out: directory of runs, CSV files and ``tables.md``.
        source: for ``cross-domain``, interactions of the same users in another domain.
        presets: one for each of ``data``; None takes the preset of the file's stem where there is
            one, else ``"default"``.
        encoders: which; None takes the paper's.
        seeds: how many, from 0.
        settings: changes for all jobs, as ``KEY=VALUE``.
        reading: how all files are read: keyword arguments of ``Interactions.from_file``, such as
            ``user="customer"`` for another name of a column.
        only: patterns as of file names; jobs are left for another time, or another machine, whose
            names match none and that no job needs which does. Empty for all jobs. A job is called
            ``DATA-MODEL+MODULES-SEED``, like the directory of its run.
        jobs: processes at a time.
        threads: of each process; None gives each an equal share of the cores.
        progress: whether to print a line on it.
        command: kept in ``study.json``.

    Returns:
        Name of each failed job -> its error; empty where all is well.

    Raises:
        ValueError: an argument that cannot be used.
        CheckpointError: ``out`` holds a study of other data or settings, or something else; or
            another process is at work on it.
        MissingExtraError: the extra ``studies`` is not installed.
    """
    need_extra("pandas", "scipy")
    out = Path(out)
    sets = {entry.name: entry for entry in _datasets(kind, data, source, presets, reading or {})}
    chosen = choose_encoders(kind, encoders)
    _check_arguments(seeds, jobs, threads, settings)
    if threads is None:
        threads = max((os.cpu_count() or 1) // jobs, 1)
    grid = list_jobs(kind, list(sets), chosen, range(seeds))
    configs = {job: job_config(job, sets[job.data].preset, settings) for job in grid}
    wanted = _matching(grid, only)
    about = {
        "study": kind,
        "data": [_describe(entry) for entry in sets.values()],
        "encoders": chosen,
        "seeds": list(range(seeds)),
        "settings": list(settings),
        "command": command,
    }
    tasks = {job: _task(out, job, sets[job.data], settings, threads) for job in grid}
    with _claimed(out):
        study = _joined(out / STUDY, about)
        for job, config in configs.items():
            if is_done(out, job):
                read_marker(job_directory(out, job), study, config.describe())
        return _complete(out, study, tasks, wanted, jobs, progress)


def _complete(
    out: Path,
    study: dict[str, Any],
    tasks: Mapping[Job, Task],
    wanted: Collection[Job],
    jobs: int,
    progress: bool,
) -> dict[str, str]:
    """Do what is wanted and not done yet; what failed. The date of the study is that of the last
    of all its jobs."""
    left = [tasks[job] for job in wanted if not is_done(out, job)]
    if left:
        study["finished"] = ""
    write_json(out / STUDY, study)
    failed = run_tasks(left, jobs, done=len(wanted) - len(left), progress=progress)
    if len(failed) < len(wanted):
        collect(out)
    if not study["finished"] and all(is_done(out, job) for job in tasks):
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_json(out / STUDY, study | {"finished": now})
    return failed


def _matching(grid: Sequence[Job], patterns: Sequence[str]) -> list[Job]:
    """The jobs that match, and those they need, in the order of the grid."""
    if not patterns:
        return list(grid)
    names = [job.name for job in grid]
    matching: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found:
            raise ValueError(
                f"--only {pattern}: matches no job of this study; they are {', '.join(names)}"
            )
        matching.update(found)
    chosen = {job for job in grid if job.name in matching}
    needed = {job.needs for job in chosen}
    return [job for job in grid if job in chosen or job in needed]


def _task(out: Path, job: Job, data: Dataset, settings: Sequence[str], threads: int) -> Task:
    spec = {
        "out": str(out),
        "job": asdict(job),
        "data": asdict(data),
        "settings": list(settings),
        "threads": threads,
    }
    needs = job.needs
    return Task(
        name=job.name,
        command=(sys.executable, "-c", _CHILD, json.dumps(spec)),
        log=job_directory(out, job) / LOG,
        needs="" if needs is None else needs.name,
    )


def _datasets(
    kind: Kind,
    data: Sequence[str | Path],
    source: str | Path | None,
    presets: Sequence[str] | None,
    reading: Mapping[str, Any],
) -> list[Dataset]:
    if kind == "cross-domain" and source is None:
        raise ValueError(
            "cross-domain needs a second domain: source=..., on the command line --source FILE"
        )
    if kind != "cross-domain" and source is not None:
        raise ValueError("a source domain belongs to the study cross-domain, and only to that")
    if not data or (source is not None and len(data) > 1):
        raise ValueError(f"{kind}: give {'one file' if source else 'at least one file'} of data")
    if presets is not None and len(presets) != len(data):
        raise ValueError(f"{len(presets)} presets for {len(data)} files: give one for each or none")
    found = []
    for place, file in enumerate(map(Path, data)):
        preset = file.stem if file.stem in PRESETS else DEFAULT
        found.append(
            Dataset(
                name=file.stem if source is None else f"{Path(source).stem}-to-{file.stem}",
                preset=preset if presets is None else current_name(presets[place]),
                file=str(file),
                source="" if source is None else str(source),
                reading=dict(reading),
            )
        )
    names = [entry.name for entry in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two data sets are called {name!r}: rename a file")
    return found


def _check_arguments(seeds: int, jobs: int, threads: int | None, settings: Sequence[str]) -> None:
    for name, value in (("seeds", seeds), ("jobs", jobs), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    for setting in settings:
        key = setting.partition("=")[0]
        if key in _NOT_TO_SET:
            raise ValueError(f"--set {setting}: the jobs of a study differ in {key}; leave it out")


def _describe(data: Dataset) -> dict[str, Any]:
    read = data.read()
    return {
        "name": data.name,
        "preset": data.preset_name,
        "users": read.n_users,
        "items": read.n_items,
        "records": read.n_records,
        "fingerprint": read.fingerprint(),
    }


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Within it no other study, which would do the same jobs, takes ``out``."""
    make_directory(out)
    if not (out / STUDY).exists() and any(path.name != LOCK for path in out.iterdir()):
        raise CheckpointError(f"{out}: exists and holds no study; use another directory")
    with sole_user(out, "study"):
        yield


def _joined(marker: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """``study.json`` for a study, together with what it already says; or a refusal."""
    found: dict[str, Any] = {"study": "", "data": [], "encoders": [], "seeds": []}
    if marker.exists():
        try:
            found = read_json(marker)
        except ValueError as error:
            raise CheckpointError(f"{marker}: damaged ({error}); use another directory") from None
        for entry in found["data"]:
            entry["preset"] = FORMER_NAMES.get(entry["preset"], entry["preset"])
        unlike = differences(found["settings"], about["settings"], "settings")
        there = {entry["name"]: entry for entry in found["data"]}
        for entry in about["data"]:
            name = entry["name"]
            unlike += differences(there.get(name, entry), entry, name)
        if unlike:
            raise CheckpointError(
                f"{marker.parent}: holds a study with other {', '.join(unlike)}; use another "
                "directory"
            )
    kinds = [name for name in found["study"].split("+") if name]
    others = [entry for entry in found["data"] if entry not in about["data"]]
    return {
        "study": "+".join(dict.fromkeys([*kinds, about["study"]])),
        "data": others + about["data"],
        "encoders": list(dict.fromkeys([*found["encoders"], *about["encoders"]])),
        "seeds": sorted({*found["seeds"], *about["seeds"]}),
        "settings": about["settings"],
        "version": pdrec_fast.__version__,
        "torch": torch.__version__,
        "machine": _machine(),
        "command": about["command"],
        "finished": found.get("finished", ""),
    }


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = named[0].partition(":")[2].strip() if named else model
    text = f"{model}, {os.cpu_count()} cores"
    if torch.cuda.is_available():
        text += f", {torch.cuda.get_device_name()}"
    return text
