"""What several commands take: options of the data, of the machine and of a run."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

import torch
import typer

from pdrec_fast.data import Interactions, Split, given_split
from pdrec_fast.data.domains import read_domains
from pdrec_fast.data.item_features import read_item_features
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.encoders import ENCODER_CONFIGS
from pdrec_fast.fitting.callbacks import Callback, CSVLogger, TensorBoardLogger
from pdrec_fast.pipeline import RunConfig, SplitSpec, tested_models
from pdrec_fast.preferences import Preferences
from pdrec_fast.presets import FORMER_NAMES, preset_names
from pdrec_fast.ranks import ALONE, Mesh, launched, mesh_sizes
from pdrec_fast.settings import field_values, own_settings, parse_settings
from pdrec_fast.training import MODULES, Module

EPOCHS_CSV, TENSORBOARD = "epochs.csv", "tensorboard"
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
FILES_HELP = (
    ".inter, .csv, .tsv, .jsonl, .ndjson (also with .gz, .zst, .zip), .parquet, .arrow, .feather, "
    ".ipc, a folder of such parts, or a store of prepare"
)
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
PreferencesFolder = Annotated[
    Path | None,
    typer.Option(
        "--preferences",
        metavar="FOLDER",
        help="Train with what the command preferences wrote for this data, instead of inferring "
        "it; top_m, omega_m and n_draws are the folder's.",
    ),
]


ValidFile = Annotated[
    Path | None,
    typer.Option(
        help="Validation records in a file of their own, any number a user; --data then holds the "
        "training records alone. Needs --test-file."
    ),
]
TestFile = Annotated[Path | None, typer.Option(help="Test records, alike.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's choice.")]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: a GPU where there is one.")
]

Rank = Annotated[
    int | None,
    typer.Option(
        help="Do only every WORLD-th part, from this one on. Default: what torchrun or srun says; "
        "else any part that no other process has."
    ),
]
PartSize = Annotated[
    int, typer.Option(min=1, help="Users of a part, which one process does at a time.")
]
World = Annotated[int | None, typer.Option(help="How many processes share the parts by --rank.")]


MeshSizes = Annotated[
    str | None,
    typer.Option(
        "--mesh",
        metavar="users=A,items=B",
        help="Under torchrun: A x B processes, of which A share the users of a step and B whatever "
        "has a row for each item. Default: all of them share the users.",
    ),
]


def mesh_of(sizes: str | None, device: str) -> Mesh:
    """The mesh of this process and the others that torchrun started; of one process alone where
    it started none. The first one alone is to print."""
    if sizes is None and launched()[1] == 1:
        return ALONE
    mesh = Mesh(*mesh_sizes(sizes or "items=1"), device=device)
    if not mesh.is_first:
        warnings.simplefilter("ignore")
    return mesh


def what_is_there(out: Path, done: bool, rank: int | None, world: int | None) -> str:
    """What a process says that shared a job in parts."""
    if done:
        return f"written to {out}"
    return (
        f"rank {rank} of {world} has done its parts; {out} is complete when the others have done "
        "theirs"
    )


class LogKind(str, Enum):
    """Where the curves of a run's trainings are written."""

    csv = "csv"
    tensorboard = "tensorboard"


Log = Annotated[
    list[LogKind] | None,
    typer.Option(
        "--log",
        help=f"Write every epoch's figures as well: csv to OUT/{EPOCHS_CSV}, tensorboard to "
        f"OUT/{TENSORBOARD}. Repeatable.",
    ),
]


def loggers(kinds: Collection[LogKind] | None, out: Path) -> list[Callback]:
    """The callbacks that ``--log`` asks for."""
    made: list[Callback] = []
    for kind in dict.fromkeys(kinds or ()):
        if kind is LogKind.csv:
            made.append(CSVLogger(out / EPOCHS_CSV))
        else:
            made.append(TensorBoardLogger(out / TENSORBOARD))
    return made


def _quieten(context: typer.Context, quiet: bool) -> bool:
    logger = logging.getLogger("pdrec_fast")
    if quiet:
        context.call_on_close(partial(logger.setLevel, logger.level))
        logger.setLevel(logging.WARNING)
    return quiet


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", callback=_quieten, help="No progress bars, and no messages but warnings."
    ),
]


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How interactions are read, as a command's options say."""

    user_column: Annotated[
        str | None, typer.Option(help="Name, or position from 0. Default: user_id.")
    ] = None
    item_column: Annotated[str | None, typer.Option(help="Default: item_id.")] = None
    timestamp_column: Annotated[str | None, typer.Option(help="Default: timestamp.")] = None
    rating_column: Annotated[
        str | None, typer.Option(help="Default: rating, where --min-rating is given.")
    ] = None
    no_header: Annotated[
        bool, typer.Option("--no-header", help="The text has no header line; columns by position.")
    ] = False
    min_user: Annotated[int, typer.Option(min=1, help="Least interactions of a user.")] = 1
    min_item: Annotated[int, typer.Option(min=1, help="Least interactions of an item.")] = 1
    repeats: Annotated[
        str, typer.Option(help="Repeated (user, item) pairs: keep, first or last.")
    ] = "keep"
    min_rating: Annotated[float | None, typer.Option(help="Only records rated so or better.")] = (
        None
    )
    since: Annotated[
        str | None, typer.Option(help="Only records from this time on: a number or a date.")
    ] = None
    until: Annotated[str | None, typer.Option(help="Only records before this time.")] = None
    limit_users: Annotated[
        int | None, typer.Option(min=1, help="At most so many users, always the same sample.")
    ] = None

    def given(self) -> list[str]:
        """The options whose values are not the default."""
        parameters = inspect.signature(type(self)).parameters.items()
        return [
            f"--{name.replace('_', '-')}"
            for name, parameter in parameters
            if getattr(self, name) != parameter.default
        ]

    def reading(self) -> dict[str, Any]:
        """As arguments of ``Interactions.from_file``."""
        return {
            "user": column(self.user_column),
            "item": column(self.item_column),
            "timestamp": column(self.timestamp_column),
            "rating": column(self.rating_column),
            "header": not self.no_header,
            "min_user": self.min_user,
            "min_item": self.min_item,
            "repeats": self.repeats,
            "min_rating": self.min_rating,
            "since": self.since,
            "until": self.until,
            "limit_users": self.limit_users,
        }


@dataclass(frozen=True)
class DataOptions(ReadingOptions):
    """The data of a command and how they are read and split, as its options say."""

    data: Annotated[Path, typer.Option(help=f"Interactions: {FILES_HELP}.")]
    source: Annotated[
        Path | None,
        typer.Option(
            help="Interactions of the same users in another domain, mixed with --data in time "
            "order; evaluated and recommended are items of --data alone."
        ),
    ] = None
    item_features: Annotated[
        Path | None,
        typer.Option(
            help="Vectors of items, .parquet, .csv or .tsv, a row for each item of --item-column: "
            "they give items without records a place."
        ),
    ] = None
    valid_from: Annotated[
        str | None,
        typer.Option(
            help="Split by time: validation starts here, a number in the unit of the timestamps or "
            "a date such as 2020-09-14. Needs --test-from. Default: leave-one-out."
        ),
    ] = None
    test_from: Annotated[str | None, typer.Option(help="Split by time: test starts here.")] = None

    def read(self) -> Interactions:
        data = read_domains(self.data, self.source, **self.reading())
        if self.item_features is None:
            return data
        item = "item_id" if self.item_column is None else self.item_column
        return data.with_item_features(*read_item_features(self.item_features, item))

    def read_all(self, valid_file: Path | None, test_file: Path | None) -> Interactions | Split:
        """``--data``, or the split that it makes with held-out records in files of their own.

        Raises:
            ValueError: see ``read_split``.
        """
        if valid_file is None and test_file is None:
            return self.read()
        return self.read_split(valid_file, test_file)

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
            "--limit-users": self.limit_users is not None,
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
        words = []
        for option in self.given():
            value = getattr(self, option.removeprefix("--").replace("-", "_"))
            words += [option] if value is True else [option, str(value)]
        return words


def column(name: str | None) -> str | int | None:
    """What a column's option says: digits are a position, unless a column is called so."""
    return int(name) if name is not None and name.isascii() and name.isdigit() else name


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are dataclasses become one option for each field."""
    # get_type_hints of Python 3.10 wraps what defaults to None, and so hides what an option says.
    hints = inspect.get_annotations(command, eval_str=True)
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


def diffusion_of(run_dir: Path, device: str) -> DiffRec:
    """The diffusion model of a run that ``--diffusion`` names."""
    return DiffRec.load(tested_models(run_dir) / "diffusion", device=device)


def preferences_of(folder: Path | None, settings: Collection[str] | None) -> Preferences | None:
    """The preferences that ``--preferences`` names, mapped from their files and verified.

    Args:
        settings: what ``--set`` says.

    Raises:
        ValueError: one of them is the preferences' own.
        CheckpointError: see ``Preferences.open``.
    """
    if folder is None:
        return None
    for key in ("top_m", "omega_m", "n_draws"):
        if key in parse_settings(settings or ()):
            raise ValueError(
                f"--set {key} has no effect with --preferences, which were inferred with theirs: "
                "leave one of them out"
            )
    return Preferences.open(folder, verify=True)


def use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def modules_of(text: str) -> tuple[Module, ...]:
    """The modules that ``--modules`` names."""
    if text.strip() == "none":
        return ()
    return cast("tuple[Module, ...]", tuple(name.strip() for name in text.split(",")))
