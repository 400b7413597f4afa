"""From the runs of a study to its CSV files and tables; at any time, also while jobs run."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pdrec_fast.evaluation import per_case
from pdrec_fast.files import write_text
from pdrec_fast.studies.comparisons import compare
from pdrec_fast.studies.finished import FinishedJob, read_finished
from pdrec_fast.studies.job_process import HBR_FILE
from pdrec_fast.studies.jobs import GUIDE
from pdrec_fast.studies.schema import need_extra, read_table, write_table
from pdrec_fast.studies.tables import format_tables

BY_POPULARITY = "ndcg@10"
Row = dict[str, Any]


def collect(out: str | Path) -> int:
    """Write the CSV files and ``tables.md`` of the study in ``out`` from its finished jobs.

    Returns:
        How many jobs are finished.

    Raises:
        CheckpointError: ``out`` holds no study, none of its jobs is finished, or one is damaged or
            of other data or settings than the study.
        MissingExtraError: the extra ``studies`` is not installed.
    """
    need_extra("pandas", "scipy")
    out = Path(out)
    runs = read_finished(out)
    tables = {name: list(make_rows(runs)) for name, make_rows in _MAKERS.items()}
    for name, rows in tables.items():
        write_table(out, name, rows)
    markdown = format_tables(read_table(out, "results"), read_table(out, "comparisons"))
    write_text(out / "tables.md", markdown)
    return len(runs)


def _results(runs: Sequence[FinishedJob]) -> Iterator[Row]:
    for run in runs:
        seconds = run.metrics["seconds"][run.stage]
        for protocol, splits in run.metrics["protocols"].items():
            for split, values in splits.items():
                place = {"protocol": protocol, "split": split, "seconds": seconds}
                for metric, value in values.items():
                    yield {**run.key, **place, "metric": metric, "value": value}


def _curves(runs: Sequence[FinishedJob]) -> Iterator[Row]:
    for run in runs:
        history = run.metrics["history"][run.stage]
        for epoch, (seconds, loss) in enumerate(
            zip(history["elapsed"], history["losses"], strict=True)
        ):
            numbers = {"epoch": epoch + 1, "seconds": round(seconds, 4), "loss": _short(loss)}
            valid = history["validations"].get(str(epoch))
            yield {**run.key, **numbers, "valid": valid and _short(valid)}


def _short(value: float) -> float:
    """To digits enough for a curve: there are thousands of rows."""
    return float(f"{value:.5g}")


def _ranks(runs: Sequence[FinishedJob]) -> Iterator[Row]:
    """The test item's rank under TI-DiffRec in the whole corpus, 1 = best, in bins up to 1, 2, 5,
    10, 20, 50, ...; ties count half."""
    for run in runs:
        if run.job.model != GUIDE:
            continue
        ranks = run.ranks["full"]["test"]
        place = ranks.greater + ranks.equal // 2 + 1
        last = _steps(int(ranks.candidates.max()) + 1)
        first = [1, *(rank + 1 for rank in last[:-1])]
        for known in (1, 0):
            bins = np.searchsorted(last, place[(run.records > 0) == bool(known)])
            counts = np.bincount(bins, minlength=len(last)).tolist()
            for rank_from, rank_to, cases in zip(first, last, counts, strict=True):
                numbers = {"rank_from": rank_from, "rank_to": rank_to, "cases": cases}
                yield {**run.key, "known": known, **numbers}


def _popularity(runs: Sequence[FinishedJob]) -> Iterator[Row]:
    """The metric on test by how many training records the target has: 0, 1, 2 to 4, 5 to 9, 10 to
    19, and so on; without bins that have no cases."""
    for run in runs:
        first = [0, *_steps(int(run.records.max()) + 1)]
        bins = np.searchsorted(first, run.records, side="right") - 1
        for protocol, splits in run.ranks.items():
            values = per_case(splits["test"], BY_POPULARITY)
            for place in np.unique(bins):
                chosen = values[bins == place]
                yield {
                    **run.key,
                    "protocol": protocol,
                    "metric": BY_POPULARITY,
                    "records_from": first[place],
                    "records_to": first[place + 1] - 1,
                    "cases": len(chosen),
                    "value": float(chosen.mean()),
                }


def _steps(most: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... until one is ``most`` or more."""
    steps = [factor * 10**power for power in range(12) for factor in (1, 2, 5)]
    return steps[: int(np.searchsorted(steps, most)) + 1]


def _hbr(runs: Sequence[FinishedJob]) -> Iterator[Row]:
    """One run's rows for every data set and seed: SASRec's where there is one, as settings may
    differ between encoders."""
    chosen: dict[tuple[str, int], FinishedJob] = {}
    for run in runs:
        if "hbr" in run.job.run_modules and run.job.guide == GUIDE:
            other = chosen.setdefault((run.job.data, run.job.seed), run)
            if run.job.model == "sasrec" != other.job.model:
                chosen[run.job.data, run.job.seed] = run
    for _, run in sorted(chosen.items()):
        with (run.directory / HBR_FILE).open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                yield {**run.key, **row}


_MAKERS: dict[str, Callable[[Sequence[FinishedJob]], Iterator[Row]]] = {
    "results": _results,
    "comparisons": compare,
    "curves": _curves,
    "ranks": _ranks,
    "popularity": _popularity,
    "hbr": _hbr,
}
