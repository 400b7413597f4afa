"""One job of a study, in a process of its own.

Beside the run's files its directory gets ``cases.npz`` (per case, what the metrics are means of),
``hbr.csv`` where behaviours were reweighted and, last of all, ``job.json``: the job is done.
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from pdrec_fast.data import Interactions
from pdrec_fast.data.domains import read_domains
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.diffusion.config import Weighting
from pdrec_fast.errors import CheckpointError
from pdrec_fast.files import differences, read_json, replacing, write_json, writing
from pdrec_fast.pipeline import RunConfig, RunResult, run, with_current_defaults
from pdrec_fast.preferences.reweighting import ranks_within
from pdrec_fast.presets import DEFAULT_0_1, FORMER_NAMES, PRESETS
from pdrec_fast.settings import parse_settings, with_settings
from pdrec_fast.studies.jobs import WEIGHTINGS, Job
from pdrec_fast.studies.pool import end_with_parent
from pdrec_fast.studies.schema import HBR

DONE = "job.json"
CASES = "cases.npz"
HBR_FILE = "hbr.csv"
_HISTORY_LENGTHS = (8, 20, 50)  # about those of the users in hbr.csv


@dataclass(frozen=True)
class Dataset:
    """A data set of a study.

    Attributes:
        name: in the study's files: the stem of ``file``, or ``source-to-target``.
        preset: its settings, by name or by file.
        file: interactions; source: those of a second domain, or "".
        reading: how the files are read, arguments of ``Interactions.from_file``.
    """

    name: str
    preset: str
    file: str
    source: str = ""
    reading: dict[str, Any] = field(default_factory=dict)

    @property
    def preset_name(self) -> str:
        """In the study's files."""
        return Path(self.preset).stem

    def read(self) -> Interactions:
        return read_domains(self.file, self.source or None, **self.reading)


def job_directory(out: Path, job: Job) -> Path:
    """Where the job's run lies."""
    return out / "runs" / job.name


def is_done(out: Path, job: Job) -> bool:
    """Whether the job has left everything that tables and other jobs need."""
    return (job_directory(out, job) / DONE).exists()


def job_config(job: Job, preset: str, settings: Sequence[str]) -> RunConfig:
    """The settings of the job's run."""
    config = RunConfig.from_preset(
        preset, encoder=job.encoder, modules=job.run_modules, guide=job.run_guide, seed=job.seed
    )
    if "fusion" not in job.run_modules and config.diffusion.likelihood != "gaussian":
        # What a study calls DiffRec, T-DiffRec and TI-DiffRec are the paper's models.
        papers = replace(PRESETS[DEFAULT_0_1].diffusion, seed=job.seed)
        config = replace(config, diffusion=papers)
    config = with_settings(config, parse_settings(settings))
    if job.model in WEIGHTINGS:
        weighting = cast("Weighting", WEIGHTINGS[job.model])
        config = replace(config, diffusion=replace(config.diffusion, weighting=weighting))
    return config


def do_job(out: Path, job: Job, data: Dataset, settings: Sequence[str]) -> None:
    """Do a job whose diffusion model, if it needs one, is there; or continue it."""
    directory, config = job_directory(out, job), job_config(job, data.preset, settings)
    guide = job.needs if config.needs_diffusion else None
    fitted = None if guide is None else DiffRec.load(job_directory(out, guide) / "diffusion")
    read = data.read()
    result = run(read, config, out=directory, diffusion=fitted)
    _write_cases(directory / CASES, result)
    if "hbr" in job.run_modules:
        _write_hbr(directory / HBR_FILE, result, config)
    # The largest file of a run, and the quickest to make again.
    shutil.rmtree(directory / "preferences", ignore_errors=True)
    done = {
        "job": asdict(job),
        "preset": data.preset_name,
        "fingerprint": read.fingerprint(),
        "settings": list(settings),
        "config": config.describe(),
    }
    write_json(directory / DONE, done)


def read_marker(
    directory: Path, study: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """``job.json`` of a finished job, checked to be one of ``study``, the contents of study.json.

    Args:
        config: description of the settings that it should have; None where that is not known.

    Raises:
        CheckpointError: it is damaged, or its data, preset or settings are others.
    """
    try:
        done: dict[str, Any] = read_json(directory / DONE)
        done = with_current_defaults(done, directory / DONE)
        done["preset"] = FORMER_NAMES.get(done["preset"], done["preset"])
        name, found_config = done["job"]["data"], done["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(directory / DONE, error) from None
    sets = {entry["name"]: entry for entry in study["data"]}
    if name in sets:
        wanted = {
            "preset": FORMER_NAMES.get(sets[name]["preset"], sets[name]["preset"]),
            "fingerprint": sets[name]["fingerprint"],
            "settings": study["settings"],
        }
        # Older versions did not write all of them.
        unlike = differences({key: done.get(key, value) for key, value in wanted.items()}, wanted)
    else:
        unlike = differences(name, ", ".join(sets), "data")
    if config is not None:
        unlike += differences(found_config, config)
    if unlike:
        raise CheckpointError(
            f"{directory}: was run with other {', '.join(unlike)}; delete it, or use another "
            "directory for the study"
        )
    return done


def damaged(file: Path, error: Exception) -> CheckpointError:
    """What to raise where a file of a finished job cannot be read."""
    return CheckpointError(
        f"{file}: damaged ({type(error).__name__}: {error}); delete {file.parent}, and give the "
        "study's command again"
    )


def _write_cases(path: Path, result: RunResult) -> None:
    """int32 [3, n] (greater, equal, candidates) for each ``protocol_split``, and how many records
    of the test's targets are in training."""
    arrays: dict[str, Any] = {
        f"{protocol}_{split}": np.stack([r.greater, r.equal, r.candidates]).astype(np.int32)
        for protocol, by_split in result.ranks.items()
        for split, r in by_split.items()
    }
    train = result.split.train
    records = np.bincount(train.items, minlength=train.n_items)
    arrays["records"] = records[result.split.test.targets].astype(np.int32)
    with writing(path):
        np.savez_compressed(path, **arrays)


def _write_hbr(path: Path, result: RunResult, config: RunConfig) -> None:
    """What HBR makes of the training histories of three users."""
    train, preferences, model = result.split.train, result.preferences, result.model
    assert preferences is not None
    assert model is not None
    max_length = cast("Any", model.encoder).max_length
    trained_on = None if config.pdrec.windows else max_length
    weights = preferences.hbr_weights(train, config.pdrec, trained_on)
    with replacing(path) as fresh, fresh.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(HBR)
        for user in _example_users(np.diff(train.indptr), max_length):
            # A history's first item is nobody's next one.
            records = slice(train.indptr[user] + 1, train.indptr[user + 1])
            items, scores = train.items[records], preferences.observed_scores[records]
            times = [""] * len(items) if train.timestamps is None else train.timestamps[records]
            columns = {
                "user": [train.user_ids[user]] * len(items),
                "position": range(2, len(items) + 2),
                "item": train.item_ids[items],
                "timestamp": times,
                "preference": scores,
                "rank": ranks_within(np.array([0, len(items)]), scores, items),
                "weight": weights[records],
            }
            writer.writerows(zip(*(columns[name] for name in HBR), strict=True))


def _example_users(lengths: np.ndarray, max_length: int) -> list[int]:
    """Different users whose histories are nearest to the lengths wanted, short ones first."""
    usable = (lengths > 1) & (lengths <= max_length)
    chosen: list[int] = []
    for wanted in _HISTORY_LENGTHS:
        distance = np.where(usable, np.abs(lengths - wanted), np.iinfo(np.int64).max)
        distance[chosen] = np.iinfo(np.int64).max
        user = int(distance.argmin())
        if distance[user] < np.iinfo(np.int64).max:
            chosen.append(user)
    return chosen


def main() -> None:
    """Entry point of a job's process: the task is the last argument, as JSON."""
    end_with_parent()
    task = json.loads(sys.argv[-1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(task["threads"])
    do_job(Path(task["out"]), Job(**task["job"]), Dataset(**task["data"]), task["settings"])
