"""The commands ``pdrec-fast study``, ``pdrec-fast collect`` and ``pdrec-fast report``."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pdrec_fast import options as opt
from pdrec_fast.studies.collect import collect as collect_tables
from pdrec_fast.studies.jobs import KINDS
from pdrec_fast.studies.report import write_report
from pdrec_fast.studies.study import run_study

StudyKind = Enum("StudyKind", {kind: kind for kind in KINDS}, type=str)  # type: ignore[misc]


Kind = Annotated[
    StudyKind,
    typer.Argument(
        help="main: the paper's Table 1; ablation: Fig. 4; universality: Fig. 5; cross-domain: "
        "Table 3."
    ),
]
Data = Annotated[list[Path], typer.Option(help=f"Interactions: {opt.FILES_HELP}. Repeatable.")]
Out = Annotated[Path, typer.Option(help="Directory for runs, CSV files and tables.md; resumable.")]
Source = Annotated[
    Path | None,
    typer.Option(help="cross-domain: interactions of the same users in another domain."),
]
PresetNames = Annotated[
    list[str] | None,
    typer.Option(help="One for each --data. Default: the preset of the file's name, or default."),
]
Encoders = Annotated[str | None, typer.Option(help="Comma-separated. Default: those of the paper.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many, from 0.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change one setting of all runs, as in run. Repeatable. " + opt.SETTINGS_HELP
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        help="Only the jobs whose names, like those of runs, match this pattern, and those they "
        "need: '*-1', '*-cl4srec*'. Repeatable."
    ),
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes at a time; they share the cores.")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of each process; default: an equal share of the cores. 1 on a shared machine."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No line on progress.")]


@opt.grouped
def study(
    kind: Kind,
    data: Data,
    out: Out,
    reading: opt.ReadingOptions,
    source: Source = None,
    preset: PresetNames = None,
    encoders: Encoders = None,
    seeds: Seeds = 5,
    settings: Set = None,
    only: Only = None,
    jobs: Jobs = 1,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Train and test every model of one of the paper's tables, and write the tables.

    A study that was interrupted continues when the same command is given again. Studies of the same
    data with one --out share their runs, and their tables. To share the work among machines, give
    each an --only and an --out, copy what is in their runs/ into one of them, and collect there.
    """
    try:
        failed = run_study(
            kind.value,
            data,
            out=out,
            source=source,
            presets=preset,
            encoders=None if encoders is None else [name.strip() for name in encoders.split(",")],
            seeds=seeds,
            settings=settings or [],
            reading=reading.reading(),
            only=only or [],
            jobs=jobs,
            threads=threads,
            progress=not quiet,
            command=_shared(sys.argv[1:]),
        )
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        raise typer.Exit(130) from None
    for name, error in failed.items():
        print(f"error: {name}: {error}", file=sys.stderr)
    if (out / "tables.md").exists():
        print(f"written to {out / 'tables.md'}")
    if failed:
        raise typer.Exit(1)


def _shared(arguments: list[str]) -> str:
    """The command as others can read it: files by their names, whatever folders they lie in."""
    words = []
    for word in arguments:
        option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
        is_path = Path(value).is_absolute() and not option.startswith("--set")
        words.append(f"{option}{equals}{Path(value).name if is_path else value}")
    return shlex.join(["pdrec-fast", *words])


def collect(out: Annotated[Path, typer.Argument(help="Directory of a study.")]) -> None:
    """Write a study's CSV files and tables.md from the jobs that are finished so far."""
    n_jobs = collect_tables(out)
    print(f"written to {out / 'tables.md'}, from {n_jobs} finished jobs")


def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Directories of studies.")
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Write tables and figures of finished studies as one HTML page that needs no network."""
    print(f"written to {write_report(directories, out)}")
