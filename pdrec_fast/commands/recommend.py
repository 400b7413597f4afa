"""The command ``recommend``."""

from __future__ import annotations

import csv
import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from pdrec_fast import options as opt
from pdrec_fast.commands.finished import model_of
from pdrec_fast.data import Interactions
from pdrec_fast.part_jobs import rank_here
from pdrec_fast.recommending import Recommendations


class Format(str, Enum):
    """How results are printed."""

    table = "table"
    csv = "csv"
    json = "json"


class UnknownUsers(str, Enum):
    """What becomes of users of whom nothing is known."""

    refuse = "raise"
    skip = "skip"
    popular = "popular"


@opt.grouped
def recommend(
    run_dir: opt.RunDir,
    reading: opt.ReadingOptions,
    users: Annotated[
        str, typer.Option(help="Comma-separated user ids; spaces around them do not count.")
    ] = "",
    user: Annotated[
        list[str] | None,
        typer.Option(help="One user id exactly as in the data, commas and all. Repeatable."),
    ] = None,
    users_file: Annotated[
        Path | None, typer.Option(help="A text file with one user id a line.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="All users of the data.")] = False,
    history: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated item ids, oldest first, of a person who need not be in the data; "
            "with --user, what that user has clicked since."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Newer interactions, whose ids are matched with those of the run."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Items per user.")] = 10,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Also items the user has interacted with.")
    ] = False,
    items_file: Annotated[
        Path | None, typer.Option(help="The only items to recommend, one id a line.")
    ] = None,
    exclude_file: Annotated[
        Path | None, typer.Option(help="Items not to recommend, one id a line.")
    ] = None,
    unknown: Annotated[
        UnknownUsers,
        typer.Option(
            help="Users of whom nothing is known: raise an error, skip, or popular items."
        ),
    ] = UnknownUsers.refuse,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a .parquet or .csv file, in blocks, instead of printing. A job that was "
            "interrupted continues when the same command is given again; others that are given it "
            "meanwhile share the work.",
        ),
    ] = None,
    part_size: opt.PartSize = 1 << 16,
    rank: opt.Rank = None,
    world: opt.World = None,
    output: Annotated[
        Format, typer.Option("--format", help="How results are printed.")
    ] = Format.table,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    quiet: opt.Quiet = False,
) -> None:
    """The items that users of a finished run would interact with next."""
    opt.use_threads(threads)
    names = _names(users, user, users_file, everybody, history is not None)
    if out is not None and history is not None:
        raise ValueError("--out is for users of the data: leave out --history")
    if out is None and (rank is not None or world is not None or part_size != 1 << 16):
        raise ValueError("--rank, --world and --part-size share the work of --out: name a file")
    if data is None and (given := reading.given()):
        raise ValueError(
            f"{', '.join(given)}: say how --data is read; give --data too, or leave out what has "
            "no effect"
        )
    if out is not None:
        rank, world = rank_here(rank, world)
    model = model_of(run_dir, device)
    newer = None
    if data is not None:
        newer = Interactions.from_file(data, **reading.reading())
    options: dict[str, Any] = {
        "data": newer,
        "items": None if items_file is None else _lines(items_file),
        "exclude": None if exclude_file is None else _lines(exclude_file),
        "filter_seen": not include_seen,
        "unknown": unknown.value,
    }
    if out is not None:
        shown = not (quiet or rank)
        done = model.recommend_to_file(
            out,
            names,
            k,
            part_size=part_size,
            rank=rank,
            world=world,
            progress=shown,
            **options,
        )
        if not rank:
            print(opt.what_is_there(out, done, rank, world))
        return
    clicks = None if history is None else [_split(history)]
    _print(model.recommend(names, k, history=clicks, **options), output)


def _names(
    users: str, user: list[str] | None, file: Path | None, everybody: bool, anyone: bool
) -> list[str] | None:
    """Raw ids; None for everybody, or for the one person of a history."""
    named = _split(users) + (user or [])
    ways = [bool(named), file is not None, everybody]
    if sum(ways) > 1:
        raise ValueError("--users and --user, --users-file and --all exclude each other")
    if anyone and (file is not None or everybody or len(named) > 1):
        raise ValueError("--history is of one person: name at most one user with it")
    if file is not None:
        return _lines(file)
    if not named and not everybody and not anyone:
        raise ValueError(
            "no user was named: give --users u1,u2, or --user ID once for each, --users-file, "
            "--all or --history"
        )
    return named or None


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _lines(file: Path) -> list[str]:
    """Ids, one a line, exactly as they are; blank lines do not count."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text ({error.reason})") from None
    return [line.removesuffix("\r") for line in lines if line.strip()]


def _print(found: Recommendations, output: Format) -> None:
    columns = found.columns()
    lists = [values.tolist() for values in columns.values()]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]
    for row in rows:
        row["score"] = round(row["score"], 6)
    if output is Format.json:
        print(json.dumps(rows, indent=1))
    elif output is Format.csv:
        writer = csv.DictWriter(sys.stdout, list(columns))
        writer.writeheader()
        writer.writerows(rows)
    else:
        name, item = (max([12, *(len(str(row[of])) for row in rows)]) for of in ("user", "item"))
        print(f"{'user':>{name}}  {'rank':>4}  {'item':>{item}}  {'score':>8}")
        for row in rows:
            start = f"{row['user']!s:>{name}}  {row['rank']:>4}  {row['item']!s:>{item}}"
            marked = "  popular: nothing is known of this user" if row["fallback"] else ""
            print(f"{start}  {row['score']:8.4f}{marked}")
