"""The finished jobs of a study and what their runs left."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pdrec_fast.errors import CheckpointError
from pdrec_fast.evaluation import AllRanks, Ranks
from pdrec_fast.files import read_json
from pdrec_fast.studies.job_process import CASES, DONE, damaged, read_marker
from pdrec_fast.studies.jobs import GUIDE, PLAIN, WEIGHTINGS, Job
from pdrec_fast.studies.variants import Variant

STUDY = "study.json"


@dataclass(frozen=True, eq=False)
class FinishedJob:
    """A finished job and what it left."""

    directory: Path
    job: Job
    preset: str
    metrics: dict[str, Any]

    @classmethod
    def read(cls, directory: Path, study: dict[str, Any]) -> FinishedJob:
        marker = read_marker(directory, study)
        try:
            metrics = read_json(directory / "metrics.json")
        except (OSError, ValueError) as error:
            raise damaged(directory / "metrics.json", error) from None
        return cls(directory, Job(**marker["job"]), marker["preset"], metrics)

    @property
    def variant(self) -> Variant:
        job = self.job
        return Variant(job.data, self.preset, job.model, job.modules, job.guide)

    @property
    def key(self) -> dict[str, Any]:
        """The columns that say which run a row is of."""
        return self.variant._asdict() | {"seed": self.job.seed}

    @property
    def stage(self) -> str:
        """The stage of the run that trains the model."""
        return "diffusion" if self.job.model in WEIGHTINGS else "encoder"

    @cached_property
    def _cases(self) -> dict[str, np.ndarray]:
        try:
            with np.load(self.directory / CASES, allow_pickle=False) as file:
                cases = dict(file)
            if not all(isinstance(array, np.ndarray) for array in cases.values()):
                raise TypeError("it holds what is no array")
            return cases
        except (OSError, ValueError, TypeError, EOFError, BadZipFile) as error:
            raise damaged(self.directory / CASES, error) from None

    @property
    def records(self) -> np.ndarray:
        """int [n], how many records of each test target are in training."""
        return self._cases["records"]

    @cached_property
    def ranks(self) -> AllRanks:
        """The ranks of all cases, by protocol and split."""
        found: AllRanks = {}
        for name, counts in self._cases.items():
            protocol, _, split = name.partition("_")
            if split:
                found.setdefault(protocol, {})[split] = Ranks(*counts)
        return found


def read_finished(out: Path) -> list[FinishedJob]:
    """All finished jobs of the study in ``out``, in the order of the tables.

    Raises:
        CheckpointError: ``out`` holds no study, none of its jobs is finished, or one is damaged or
            of other data or settings than the study.
    """
    if not (out / STUDY).exists():
        raise CheckpointError(f"{out}: no study is here ({STUDY} not found)")
    study = read_json(out / STUDY)
    runs = [FinishedJob.read(marker.parent, study) for marker in out.glob(f"runs/*/{DONE}")]
    if not runs:
        raise CheckpointError(f"{out}: no job of this study is finished yet")
    names = [entry["name"] for entry in study["data"]]
    models = [*WEIGHTINGS, *study["encoders"]]

    def place(run: FinishedJob) -> tuple[Any, ...]:
        job = run.job
        modules = () if job.modules == PLAIN else job.run_modules
        order = [("hbr", "nns", "dpa", "fusion").index(module) for module in modules]
        other = job.guide not in ("", GUIDE)
        return names.index(job.data), models.index(job.model), other, len(order), order, job.seed

    return sorted(runs, key=place)
