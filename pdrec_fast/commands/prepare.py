"""The command ``prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdrec_fast import options as opt
from pdrec_fast.data import preparing


@opt.grouped
def prepare(
    data: Annotated[
        str,
        typer.Option(
            help="Parquet, .csv, .tsv or .inter (also .gz, .zst): a file, a folder of parts, or a "
            "pattern in quotation marks, such as 'logs/*.parquet'."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the store; a store there is replaced.")],
    reading: opt.ReadingOptions,
    parts: Annotated[
        int, typer.Option(min=1, help="Parts, by a hash of the user: at most so many workers.")
    ] = 1,
    memory: Annotated[str, typer.Option(help="What DuckDB may use before it spills.")] = "2GB",
    threads: opt.Threads = None,
    quiet: opt.Quiet = False,
) -> None:
    """Write interactions larger than memory as a store, which the other commands take as --data.

    --min-rating, --rating-column and --limit-users are not offered here. See docs/scale.md.
    """
    options = reading.reading()
    for name in ("min_rating", "rating", "limit_users"):
        value = options.pop(name)
        if value is not None:
            raise ValueError(
                f"{name}={value!r}: prepare does not offer it; filter the files before"
            )
    card = preparing.prepare(data, out, parts=parts, memory=memory, threads=threads, **options)
    n_users, n_records = (
        sum(part[count] for part in card["parts"]) for count in ("n_users", "n_records")
    )
    print(
        f"{n_users:,} users, {card['n_items']:,} items, {n_records:,} records in "
        f"{len(card['parts'])} part{'s' if len(card['parts']) > 1 else ''}"
    )
    print(f"written to {out}")
