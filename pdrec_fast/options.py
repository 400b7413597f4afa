"""What several commands take: options of the data, of the machine and of a run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

import torch
import typer

from pdrec_fast.data import Interactions, Split, given_split
from pdrec_fast.data.domains import read_domains
from pdrec_fast.encoders import ENCODER_CONFIGS
from pdrec_fast.pipeline import RunConfig, SplitSpec
from pdrec_fast.presets import FORMER_NAMES, preset_names
from pdrec_fast.settings import field_values, own_settings
from pdrec_fast.training import MODULES, Module

PAPERS_MODULES = ",".join(MODULES)
_ENCODERS_SETTINGS = "; ".join(
    f"{name}: {', '.join(field.name for field in fields(kind))}"
    for name, kind in ENCODER_CONFIGS.items()
)
SETTINGS_HELP = (
    f"Settings: {', '.join(own_settings(RunConfig()))}; "
    f"diffusion.: {', '.join(field_values(RunConfig().diffusion))}; "
    f"pdrec.: {', '.join(field_values(RunConfig().pdrec))}; "
    f"encoder.: the encoder's own ({_ENCODERS_SETTINGS}); of guides, "
    f"linear.: {', '.join(field_values(RunConfig().linear))}; "
    f"item_knn.: {', '.join(field_values(RunConfig().item_knn))}; "
    f"codigem.: {', '.join(field_values(RunConfig().codigem))}; "
    f"latent.: {', '.join(field_values(RunConfig().latent))}."
)

RunDir = Annotated[Path, typer.Option("--run", help="Directory of a finished run.")]
UserColumn = Annotated[str | None, typer.Option(help="Default: user_id.")]
ItemColumn = Annotated[str | None, typer.Option(help="Default: item_id.")]
TimestampColumn = Annotated[str | None, typer.Option(help="Default: timestamp.")]
MinUser = Annotated[int, typer.Option(min=1, help="Least interactions of a user.")]
MinItem = Annotated[int, typer.Option(min=1, help="Least interactions of an item.")]
Repeats = Annotated[str, typer.Option(help="Repeated (user, item) pairs: keep, first or last.")]
_MODULES_HELP = "Comma-separated hbr,dpa,nns,fusion; or none."
Modules = Annotated[str, typer.Option(help=_MODULES_HELP)]
ModulesOfPreset = Annotated[
    str | None, typer.Option(help=f"{_MODULES_HELP} Default: the preset's, see presets.")
]
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

    data: Annotated[Path, typer.Option(help="Interactions: .inter, .csv, .tsv or .parquet.")]
    source: Annotated[
        Path | None,
        typer.Option(
            help="Interactions of the same users in another domain, mixed with --data in time "
            "order; evaluated and recommended are items of --data alone."
        ),
    ] = None
    user_column: UserColumn = None
    item_column: ItemColumn = None
    timestamp_column: TimestampColumn = None
    min_user: MinUser = 1
    min_item: MinItem = 1
    repeats: Repeats = "keep"
    valid_from: Annotated[
        float | None,
        typer.Option(
            help="Split by time: validation starts here, in the unit of the timestamps (datetime "
            "columns: unix seconds). Needs --test-from. Default: leave-one-out."
        ),
    ] = None
    test_from: Annotated[float | None, typer.Option(help="Split by time: test starts here.")] = None

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

    def read_split(self, valid_file: Path | None, test_file: Path | None) -> Split:
        """``--data`` as the training part beside held-out records in files of their own.

        Raises:
            ValueError: one of the two is missing, or an option makes no sense beside them.
        """
        if valid_file is None or test_file is None:
            missing = "--valid-file" if valid_file is None else "--test-file"
            raise ValueError(f"{missing} is missing: held-out records need both files")
        given = {
            "--source": self.source is not None,
            "--valid-from and --test-from": self.valid_from is not None
            or self.test_from is not None,
            "--min-user": self.min_user != 1,
            "--min-item": self.min_item != 1,
        }
        for option, is_given in given.items():
            if is_given:
                raise ValueError(
                    f"{option} has no place beside --valid-file and --test-file, which say what is "
                    "held out: leave it out"
                )
        files = (self.data, valid_file, test_file)
        return given_split(*(replace(self, data=file).read() for file in files))

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


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are dataclasses become one option for each field."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Any, list[str]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            parameters.append(parameter.replace(annotation=kind))
            continue
        groups[name] = kind, [field.name for field in fields(kind)]
        kinds = get_type_hints(kind, include_extras=True)
        for key, option in inspect.signature(kind).parameters.items():
            parameters.append(option.replace(annotation=kinds[key]))

    @wraps(command)
    def with_options(**given: Any) -> None:
        made = {
            name: kind(**{key: given.pop(key) for key in keys})
            for name, (kind, keys) in groups.items()
        }
        command(**made, **given)

    with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in parameters]
    )
    with_options.__annotations__ = {option.name: option.annotation for option in parameters}
    return with_options


def one_of(names: Collection[str], also: Collection[str] = ()) -> Callable[[str], str]:
    """A check of an option's value that names the choices, but not those ``also`` taken."""

    def check(value: str) -> str:
        if value not in names and value not in also:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}.")
        return value

    return check


def known_preset(value: str) -> str:
    """A check of ``--preset``, which may also be a file of tuned settings."""
    return value if value.endswith(".json") else one_of(preset_names(), FORMER_NAMES)(value)


def use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def modules_of(text: str) -> tuple[Module, ...]:
    """The modules that ``--modules`` names."""
    if text.strip() == "none":
        return ()
    return cast("tuple[Module, ...]", tuple(name.strip() for name in text.split(",")))
