"""From the runs of a study to its CSV files and tables; at any time, also while jobs run."""

from __future__ import annotations

import csv
import importlib.util
import json
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdrec_fast.errors import CheckpointError, MissingExtraError
from pdrec_fast.evaluation import AllRanks, Ranks, per_case
from pdrec_fast.files import write_text
from pdrec_fast.studies.jobs import GUIDE, PLAIN, WEIGHTINGS, Job
from pdrec_fast.studies.work import CASES, DONE, HBR, HBR_COLUMNS, damaged, read_done

if TYPE_CHECKING:
    import pandas as pd

STUDY = "study.json"
BY_POPULARITY = "ndcg@10"
VARIANT = ["data", "preset", "model", "modules", "guide"]
COLUMNS = {
    "results": [*VARIANT, "seed", "protocol", "split", "metric", "value", "seconds"],
    "comparisons": [
        *VARIANT, "baseline", "protocol", "split", "metric", "seeds", "users", "mean", "sd",
        "baseline_mean", "baseline_sd", "gain_percent", "p_seeds", "p_users",
    ],
    "curves": [*VARIANT, "seed", "epoch", "seconds", "loss", "valid"],
    "ranks": ["data", "preset", "seed", "known", "rank_from", "rank_to", "cases"],
    "popularity": [
        *VARIANT, "seed", "protocol", "metric", "records_from", "records_to", "cases", "value",
    ],
    "hbr": ["data", "preset", "seed", *HBR_COLUMNS],
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished job and what it left."""

    directory: Path
    job: Job
    preset: str
    metrics: dict[str, Any]

    @classmethod
    def read(cls, directory: Path, study: dict[str, Any]) -> Finished:
        done = read_done(directory, study)
        try:
            metrics = json.loads((directory / "metrics.json").read_text())
        except (OSError, ValueError) as error:
            raise damaged(directory / "metrics.json", error) from None
        return cls(directory, Job(**done["job"]), done["preset"], metrics)

    @property
    def key(self) -> dict[str, Any]:
        """The columns that say what it is."""
        job = self.job
        return {
            "data": job.data,
            "preset": self.preset,
            "model": job.model,
            "modules": job.modules,
            "guide": job.guide,
            "seed": job.seed,
        }

    @property
    def stage(self) -> str:
        """Of the run, the one that trains the model."""
        return "diffusion" if self.job.model in WEIGHTINGS else "encoder"

    @cached_property
    def _cases(self) -> dict[str, np.ndarray]:
        with np.load(self.directory / CASES) as file:
            return dict(file)

    @property
    def records(self) -> np.ndarray:
        """int [n], how many records of the test's targets are in training."""
        return self._cases["records"]

    @cached_property
    def ranks(self) -> AllRanks:
        """Of every case."""
        found: AllRanks = {}
        for name, counts in self._cases.items():
            protocol, _, split = name.partition("_")
            if split:
                found.setdefault(protocol, {})[split] = Ranks(*counts)
        return found


def need_extra() -> None:
    """Refuse where the extra ``studies`` is missing; the error says what to install."""
    for name in ("pandas", "scipy"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"studies need {name}: pip install 'pdrec_fast[studies]'")


def collect(out: str | Path) -> int:
    """Write the CSV files and ``tables.md`` of the study in ``out`` from its finished jobs.

    Returns:
        How many there are.

    Raises:
        CheckpointError: ``out`` holds no study, none of its jobs is finished, or one is damaged or
            of other data or settings than the study.
        MissingExtraError: the extra ``studies`` is not installed.
    """
    need_extra()
    import pandas as pd

    from pdrec_fast.studies.comparisons import compare
    from pdrec_fast.studies.tables import format_tables

    out = Path(out)
    runs = _finished(out)
    frames = {
        "results": _results(runs),
        "comparisons": compare(runs),
        "curves": _curves(runs),
        "ranks": _rank_distribution(runs),
        "popularity": _popularity(runs),
        "hbr": _hbr(runs),
    }
    for name, rows in frames.items():
        frame = pd.DataFrame(rows, columns=COLUMNS[name])
        write_text(out / f"{name}.csv", frame.to_csv(index=False, na_rep=_missing(name)))
    read = {name: read_csv(out / f"{name}.csv") for name in ("results", "comparisons")}
    write_text(out / "tables.md", format_tables(read["results"], read["comparisons"]))
    return len(runs)


def read_csv(path: Path) -> pd.DataFrame:
    """One of a study's CSV files; empty text stays text, and so does ``none``."""
    import pandas as pd

    text = dict.fromkeys([*VARIANT, "baseline"], str)
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=["nan"])


def _missing(name: str) -> str:
    return "" if name == "curves" else "nan"


def _finished(out: Path) -> list[Finished]:
    """In the order of the tables."""
    if not (out / STUDY).exists():
        raise CheckpointError(f"{out}: no study is here ({STUDY} not found)")
    study = json.loads((out / STUDY).read_text())
    runs = [Finished.read(marker.parent, study) for marker in out.glob(f"runs/*/{DONE}")]
    if not runs:
        raise CheckpointError(f"{out}: no job of this study is finished yet")
    names = [of["name"] for of in study["data"]]
    models = [*WEIGHTINGS, *study["encoders"]]

    def place(run: Finished) -> tuple[Any, ...]:
        job = run.job
        modules = () if job.modules == PLAIN else job.run_modules
        order = [("hbr", "nns", "dpa").index(module) for module in modules]
        other = job.guide not in ("", GUIDE)
        return names.index(job.data), models.index(job.model), other, len(order), order, job.seed

    return sorted(runs, key=place)


def _results(runs: list[Finished]) -> list[dict[str, Any]]:
    return [
        {
            **run.key,
            "protocol": protocol,
            "split": split,
            "metric": metric,
            "value": value,
            "seconds": run.metrics["seconds"][run.stage],
        }
        for run in runs
        for protocol, by_split in run.metrics["protocols"].items()
        for split, values in by_split.items()
        for metric, value in values.items()
    ]


def _curves(runs: list[Finished]) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        history = run.metrics["history"][run.stage]
        for epoch, (seconds, loss) in enumerate(
            zip(history["elapsed"], history["losses"], strict=True)
        ):
            valid = history["validations"].get(str(epoch))
            of_epoch = {"epoch": epoch + 1, "seconds": round(seconds, 4), "loss": _short(loss)}
            rows.append({**run.key, **of_epoch, "valid": valid and _short(valid)})
    return rows


def _short(value: float) -> float:
    """To digits enough for a curve: there are thousands of rows."""
    return float(f"{value:.5g}")


def _rank_distribution(runs: list[Finished]) -> list[dict[str, Any]]:
    """The test item's rank under TI-DiffRec in the whole corpus, 1 = best, in bins up to 1, 2, 5,
    10, 20, 50, ...; ties count half."""
    rows = []
    for run in runs:
        if run.job.model != GUIDE:
            continue
        ranks = run.ranks["full"]["test"]
        place = ranks.greater + ranks.equal // 2 + 1
        last = _steps(int(ranks.candidates.max()) + 1)
        first = [1, *(rank + 1 for rank in last[:-1])]
        for known in (1, 0):
            bins = np.searchsorted(last, place[(run.records > 0) == bool(known)])
            for rank_from, rank_to, cases in zip(
                first, last, np.bincount(bins, minlength=len(last)), strict=True
            ):
                of_bin = {"known": known, "rank_from": rank_from, "rank_to": rank_to}
                rows.append({**run.key, **of_bin, "cases": int(cases)})
    return rows


def _popularity(runs: list[Finished]) -> list[dict[str, Any]]:
    """The metric on test by how many training records the target has: 0, 1, 2 to 4, 5 to 9, 10 to
    19, and so on; without bins that have no cases."""
    rows = []
    for run in runs:
        first = [0, *_steps(int(run.records.max()) + 1)]
        bins = np.searchsorted(first, run.records, side="right") - 1
        for protocol, by_split in run.ranks.items():
            values = per_case(by_split["test"], BY_POPULARITY)
            for place in np.unique(bins):
                chosen = values[bins == place]
                row = {
                    "protocol": protocol,
                    "metric": BY_POPULARITY,
                    "records_from": first[place],
                    "records_to": first[place + 1] - 1,
                    "cases": len(chosen),
                    "value": float(chosen.mean()),
                }
                rows.append({**run.key, **row})
    return rows


def _steps(most: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... until one is ``most`` or more."""
    steps = [factor * 10**power for power in range(12) for factor in (1, 2, 5)]
    return steps[: int(np.searchsorted(steps, most)) + 1]


def _hbr(runs: list[Finished]) -> list[dict[str, Any]]:
    """One run's for every data set and seed: SASRec's where there is one, as settings may differ
    between encoders."""
    rows = []
    usable = [run for run in runs if "hbr" in run.job.run_modules and run.job.guide == GUIDE]
    usable.sort(key=lambda run: (run.job.data, run.job.seed))
    for _, group in groupby(usable, key=lambda run: (run.job.data, run.job.seed)):
        chosen = max(group, key=lambda run: run.job.model == "sasrec")
        with (chosen.directory / HBR).open(newline="", encoding="utf-8") as stream:
            rows += [{**chosen.key, **row} for row in csv.DictReader(stream)]
    return rows
