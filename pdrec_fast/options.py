"""What several commands take: options of the data, of the machine and of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, cast

import torch
import typer

from pdrec_fast.data import Interactions
from pdrec_fast.data.domains import read_domains
from pdrec_fast.pipeline import SplitSpec
from pdrec_fast.presets import preset_names
from pdrec_fast.settings import SETTINGS_HELP
from pdrec_fast.training import MODULES, Module

ALL_MODULES = ",".join(MODULES)

Data = Annotated[Path, typer.Option(help="Interactions: .inter, .csv, .tsv or .parquet.")]
Source = Annotated[
    Path | None,
    typer.Option(
        help="Interactions of the same users in another domain, mixed with --data in time "
        "order; evaluated and recommended are items of --data alone."
    ),
]
UserColumn = Annotated[str | None, typer.Option(help="Default: user_id.")]
ItemColumn = Annotated[str | None, typer.Option(help="Default: item_id.")]
TimestampColumn = Annotated[str | None, typer.Option(help="Default: timestamp.")]
MinUser = Annotated[int, typer.Option(min=1, help="Least interactions of a user.")]
MinItem = Annotated[int, typer.Option(min=1, help="Least interactions of an item.")]
Repeats = Annotated[str, typer.Option(help="Repeated (user, item) pairs: keep, first or last.")]
ValidFrom = Annotated[
    float | None,
    typer.Option(
        help="Split by time: validation starts here, in the unit of the timestamps (datetime "
        "columns: unix seconds). Needs --test-from. Default: leave-one-out."
    ),
]
TestFrom = Annotated[float | None, typer.Option(help="Split by time: test starts here.")]
Modules = Annotated[str, typer.Option(help="Comma-separated hbr,dpa,nns; none: the plain encoder.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change one setting, e.g. --set pdrec.epochs=50 --set diffusion.hidden=256 "
        "--set encoder.width=32 --set omega_m=0.8. Repeatable. " + SETTINGS_HELP,
    ),
]
DiffusionRun = Annotated[
    Path | None,
    typer.Option(help="Use the diffusion model of this other run of the same data."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's choice.")]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: a GPU where there is one.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


@dataclass(frozen=True)
class DataOptions:
    """The data of a command and how they are read and split, as its options say."""

    data: Path
    source: Path | None = None
    user_column: str | None = None
    item_column: str | None = None
    timestamp_column: str | None = None
    min_user: int = 1
    min_item: int = 1
    repeats: str = "keep"
    valid_from: float | None = None
    test_from: float | None = None

    def read(self) -> Interactions:
        return read_domains(
            self.data,
            self.source,
            user=self.user_column,
            item=self.item_column,
            timestamp=self.timestamp_column,
            min_user=self.min_user,
            min_item=self.min_item,
            repeats=self.repeats,
        )

    @property
    def split(self) -> SplitSpec:
        return SplitSpec(self.valid_from, self.test_from)

    def arguments(self) -> list[str]:
        """The options that give these values."""
        given = [(field, getattr(self, field.name)) for field in fields(self)]
        return [
            text
            for field, value in given
            if value != field.default
            for text in (f"--{field.name.replace('_', '-')}", str(value))
        ]


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """A check of an option's value that names the choices."""

    def check(value: str) -> str:
        if value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}.")
        return value

    return check


def known_preset(value: str) -> str:
    """A check of ``--preset``, which may also be a file of tuned settings."""
    return value if value.endswith(".json") else one_of(preset_names())(value)


def use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def modules_of(text: str) -> tuple[Module, ...]:
    """The modules that ``--modules`` names."""
    if text.strip() == "none":
        return ()
    return cast("tuple[Module, ...]", tuple(name.strip() for name in text.split(",")))
