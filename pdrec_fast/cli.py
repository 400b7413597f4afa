"""The command ``pdrec-fast``."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

import pdrec_fast
from pdrec_fast import options as opt
from pdrec_fast.commands.doctor import doctor
from pdrec_fast.commands.export import export
from pdrec_fast.commands.finished import model_of
from pdrec_fast.commands.preferences import preferences
from pdrec_fast.commands.prepare import prepare
from pdrec_fast.commands.recommend import recommend
from pdrec_fast.commands.warmup import warmup
from pdrec_fast.demo import run_demo
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.errors import CheckpointError, PDRecError, RankLostError, printable
from pdrec_fast.evaluation import Popularity, Results, format_results, format_sets
from pdrec_fast.evaluation import evaluate as evaluate_model
from pdrec_fast.pipeline import (
    DIFFUSION,
    GUIDE_NAMES,
    GUIDES,
    RunConfig,
    RunResult,
    SplitSpec,
    read_run,
    tested_models,
    without_seen,
)
from pdrec_fast.pipeline import run as run_pipeline
from pdrec_fast.pipeline.given import split_of
from pdrec_fast.presets import DEFAULT, preset_names
from pdrec_fast.presets.command import presets
from pdrec_fast.profiling import Profile
from pdrec_fast.ranks import launched
from pdrec_fast.settings import parse_settings, with_settings
from pdrec_fast.studies import command as study_commands
from pdrec_fast.training import PDRec
from pdrec_fast.tuning.command import tune

app = typer.Typer(
    help="Diffusion-guided sequential recommendation (PDRec, AAAI 2024).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_ENCODER_NAMES = (*ENCODERS, DIFFUSION)
_FIRST_TELLS = 3.0  # seconds


CudaGraphs = Annotated[
    bool, typer.Option("--cuda-graphs", help="On a GPU, replay training steps of the encoder.")
]
Final = Annotated[
    bool,
    typer.Option(
        "--final",
        help="After the test, train all again on every record, validation and test too, for as "
        "many epochs: these models recommend. Takes as long again.",
    ),
]


def main() -> None:
    """Entry point: errors a user can act on end with one line and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    warnings.filterwarnings("default", "the preset '", DeprecationWarning)
    try:
        app()
    except (PDRecError, ImportError, MemoryError, OSError, ValueError) as error:
        _tell(error)
        raise SystemExit(1) from None


def _tell(error: Exception) -> None:
    """One line for an error; of a job's processes one tells what several have met."""
    rank, _ = launched()
    if not rank:
        print(f"error: {_line_of(error)}", file=sys.stderr)
    elif not isinstance(error, RankLostError):
        # Where the first process has met it too, torchrun ends this one meanwhile.
        time.sleep(_FIRST_TELLS)
        print(f"error in process {rank}: {_line_of(error)}", file=sys.stderr)


def _line_of(error: Exception) -> str:
    """What an error says, in one line, with the system's errors as the package's own: the file
    first."""
    if isinstance(error, MemoryError):
        what = f"out of memory ({error})" if str(error) else "out of memory"
        return printable(f"{what}; docs/faq.md says which settings take less")
    if isinstance(error, UnicodeEncodeError):
        return printable(f"{error}: set PYTHONIOENCODING=utf-8, or write to a file with --out")
    if isinstance(error, OSError) and not isinstance(error, PDRecError) and error.filename:
        return printable(f"{error.filename}: {error.strerror}")
    return printable(str(error))


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Diffusion-guided sequential recommendation (PDRec, AAAI 2024)."""
    if show:
        print(f"pdrec-fast {pdrec_fast.__version__}")
        raise typer.Exit


@dataclass(frozen=True)
class _ConfigOptions:
    """The settings of a run, as its options say."""

    preset: Annotated[
        str,
        typer.Option(
            callback=opt.known_preset,
            help=f"Settings by name ({', '.join(preset_names())}; {DEFAULT}: for your own data), "
            "or a .json file that tune --into wrote; see the command presets.",
        ),
    ] = DEFAULT
    encoder: Annotated[
        str,
        typer.Option(
            callback=opt.one_of(_ENCODER_NAMES),
            help=f"Sequence encoder ({', '.join(ENCODERS)}); diffusion: the diffusion model alone.",
        ),
    ] = "sasrec"
    modules: opt.ModulesOfPreset = None
    guide: Annotated[
        str,
        typer.Option(
            callback=opt.one_of(GUIDE_NAMES),
            help="What guides: diffusion (the preset's model), multinomial (the default preset's), "
            "or another scorer in its place: "
            + "; ".join(f"{name}, {kind.about}" for name, kind in GUIDES.items())
            + ".",
        ),
    ] = DIFFUSION
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order, noise and negatives.")] = 0
    settings: opt.Set = None

    def config(self, split: SplitSpec) -> RunConfig:
        config = RunConfig.from_preset(
            self.preset,
            encoder=self.encoder,
            modules=None if self.modules is None else opt.modules_of(self.modules),
            guide=self.guide,
            seed=self.seed,
        )
        return with_settings(replace(config, split=split), parse_settings(self.settings or []))


@app.command()
@opt.grouped
def run(
    data: opt.DataOptions,
    out: Annotated[Path, typer.Option(help="Directory for models and metrics; resumable.")],
    chosen: _ConfigOptions,
    valid_file: opt.ValidFile = None,
    test_file: opt.TestFile = None,
    diffusion: opt.DiffusionRun = None,
    preferences: opt.PreferencesFolder = None,
    final: Final = False,
    log: opt.Log = None,
    device: opt.Device = "auto",
    mesh: opt.MeshSizes = None,
    cuda_graphs: CudaGraphs = False,
    threads: opt.Threads = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Time every stage, trace its first two epochs or blocks, print rates and shares; "
            "traces for Perfetto go to DIR.",
        ),
    ] = None,
    quiet: opt.Quiet = False,
) -> None:
    """Train diffusion and encoder, test both, and write OUT/metrics.json.

    A run that was interrupted continues when the same command is given again; one that is finished
    goes on when it is given again with more pdrec.epochs, if all of them were used. On many
    processes: torchrun --nproc-per-node P -m pdrec_fast run ...
    """
    opt.use_threads(threads)
    with opt.mesh_of(mesh, device) as processes:
        config = replace(chosen.config(data.split), final=final)
        interactions = data.read_all(valid_file, test_file)
        fitted = None
        if diffusion is not None:
            if any(setting.startswith("diffusion.") for setting in chosen.settings or []):
                raise ValueError(
                    "--set diffusion.* has no effect with --diffusion: leave one of them"
                )
            fitted = opt.diffusion_of(diffusion, device)
        inferred = opt.preferences_of(preferences, chosen.settings)
        profiled = Profile(profile) if profile and processes.is_first else None
        with profiled or nullcontext(), _interruptible():
            result = run_pipeline(
                interactions,
                config,
                out=out,
                diffusion=fitted,
                preferences=inferred,
                device=device,
                cuda_graphs=cuda_graphs,
                progress=not quiet,
                callbacks=opt.loggers(log, out) if processes.is_first else (),
                mesh=processes,
            )
    if not processes.is_first:
        return
    _report(result, diffusion)
    if profiled is not None:
        print(f"\n{profiled.table()}")
    print(f"\nwritten to {out / 'metrics.json'}")


@app.command()
@opt.grouped
def update(
    run_dir: opt.RunDir,
    data: opt.DataOptions,
    out: Annotated[Path, typer.Option(help="Directory of the updated run; resumable.")],
    valid_file: opt.ValidFile = None,
    test_file: opt.TestFile = None,
    settings: opt.Set = None,
    diffusion: opt.DiffusionRun = None,
    preferences: opt.PreferencesFolder = None,
    final: Annotated[
        bool | None,
        typer.Option("--final/--no-final", help="As in run; default: as the run did."),
    ] = None,
    log: opt.Log = None,
    device: opt.Device = "auto",
    mesh: opt.MeshSizes = None,
    cuda_graphs: CudaGraphs = False,
    threads: opt.Threads = None,
    quiet: opt.Quiet = False,
) -> None:
    """Train the models of a finished run for a few more epochs on new data, and test them.

    --data has all interactions up to now, the old ones too; users and items may be new. Settings
    are the run's own, with fewer epochs.
    """
    opt.use_threads(threads)
    if out.resolve() == run_dir.resolve():
        raise ValueError(f"--out {out}: is the run to update; choose another directory")
    inferred = opt.preferences_of(preferences, settings)
    with opt.mesh_of(mesh, device) as processes, _interruptible():
        result = pdrec_fast.update(
            run_dir,
            data.read_all(valid_file, test_file),
            out=out,
            settings=parse_settings(settings or []),
            split=data.split if data.split != SplitSpec() else None,
            final=final,
            diffusion=None if diffusion is None else opt.diffusion_of(diffusion, device),
            preferences=inferred,
            device=device,
            cuda_graphs=cuda_graphs,
            progress=not quiet,
            callbacks=opt.loggers(log, out) if processes.is_first else (),
            mesh=processes,
        )
    if not processes.is_first:
        return
    _report(result, diffusion)
    print(f"\nwritten to {out / 'metrics.json'}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Says how a run goes on that is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            "interrupted; the same command continues from the last checkpoint, which is of the end "
            "of an epoch",
            file=sys.stderr,
        )
        if launched()[1] > 1:
            # A message to another process may be under way; an orderly end would wait for it.
            sys.stderr.flush()
            os._exit(130)
        raise typer.Exit(130) from None


def _report(result: RunResult, diffusion: Path | None) -> None:
    """Args: diffusion: the run that the diffusion model was taken from."""
    print(result.split.report)
    print()
    print(_metrics_text(result.metrics, None if diffusion is None else _tested_alone(diffusion)))
    if result.metrics["final"] is not None:
        print(f"final: {result.metrics['final']['note']}")


@app.command()
def evaluate(
    run_dir: opt.RunDir,
    protocol: Annotated[
        str | None, typer.Option(help="Comma-separated: paper, full. Default: the run's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the sampled negatives. Default: the run's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    quiet: opt.Quiet = False,
) -> None:
    """Test the model of a finished run again, on the split it was trained with.

    Of a run with --final that is the model which was selected, not the final one.
    """
    opt.use_threads(threads)
    model = model_of(run_dir, device, tested_models(run_dir))
    try:
        metrics = json.loads((run_dir / "metrics.json").read_text())
        config, names = metrics["config"], list(metrics["protocols"])
    except (OSError, ValueError, KeyError):
        raise CheckpointError(
            f"{run_dir / 'metrics.json'}: missing or damaged; finish the run first"
        ) from None
    split = split_of(run_dir, SplitSpec(**config["split"]), model.interactions())
    former = read_run(run_dir).get("warm start")
    if former is not None:
        split = without_seen(split, former["untested"])
    if protocol is not None:
        names = [name.strip() for name in protocol.split(",")]
    if seed is None:
        seed = config["evaluation_seed"]
    results = evaluate_model(model, split, protocols=names, seed=seed)
    if as_json:
        print(json.dumps(results, indent=1))
    else:
        options: dict[str, Any] = {"protocols": names, "seed": seed}
        popularity = evaluate_model(Popularity(split.train), split, **options)
        rows = {"popularity": popularity}
        if isinstance(model, PDRec) and model.fusion is not None:
            alone = evaluate_model(model.without_fusion(), split, **options)
            rows[_without_fusion(model.name)] = alone
        print(format_results({**rows, model.name: results}))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Of the data and of both models.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Keep the runs here; default: keep nothing.")
    ] = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    quiet: opt.Quiet = False,
) -> None:
    """The whole job on a generated data set: the plain encoder against PDRec."""
    opt.use_threads(threads)
    run_demo(seed=seed, out=out, device=device, progress=not quiet)


app.command()(prepare)
app.command()(recommend)
app.command()(preferences)
app.command()(export)
app.command()(doctor)
app.command()(warmup)
app.command()(tune)
app.command()(presets)
app.command()(study_commands.study)
app.command()(study_commands.collect)
app.command()(study_commands.report)


def _tested_alone(run_dir: Path) -> Results | None:
    """What the diffusion model of another run reached there; None where nobody tested it."""
    try:
        found: Results | None = json.loads((run_dir / "metrics.json").read_text())["diffusion"]
    except (OSError, ValueError, KeyError):
        return None
    return found


def _metrics_text(metrics: dict[str, Any], diffusion: Results | None) -> str:
    """Args: diffusion: results of a model that the run was given."""
    config = metrics["config"]
    name = "+".join([config["encoder"], *config["pdrec"]["modules"]])
    results = {}
    if "popularity" in metrics:  # not in those of version 0.1.0
        results["popularity"] = metrics["popularity"]
    if "item_knn" in metrics:
        results["item-knn"] = metrics["item_knn"]
    if metrics["diffusion"] is not None:
        results["diffusion alone"] = metrics["diffusion"]
    elif diffusion is not None:
        results["diffusion alone, in its own run"] = diffusion
    if metrics["guide"] is not None:
        results[f"{config['guide']} (guide)"] = metrics["guide"]
    if metrics.get("alone"):  # not in those of version 0.1.0
        results[_without_fusion(name)] = metrics["alone"]
    if config["encoder"] != DIFFUSION:
        results[name] = metrics["protocols"]
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in metrics["seconds"].items())
    peak = "" if metrics["peak_rss_gib"] is None else f"; peak {metrics['peak_rss_gib']} GiB"
    remarks = "".join(f"{line}\n" for line in (*_shares(metrics), *_remarks(metrics)))
    tables = format_results(results)
    if metrics.get("sets"):
        names = {"item_knn": "item-knn", "guide": f"{config['guide']} (guide)", "protocols": name}
        names["alone"] = _without_fusion(name)
        sets = {names.get(key, key): found for key, found in metrics["sets"].items()}
        tables += f"\n\n{format_sets(sets)}"
    return f"{tables}\n\n{remarks}seconds: {seconds}{peak}"


def _without_fusion(name: str) -> str:
    """What a model is called as ``PDRec.without_fusion`` leaves it."""
    return f"{name.replace('+fusion', '')} alone"


def _shares(metrics: dict[str, Any]) -> Iterator[str]:
    """What the fusion adds to the encoder's logits, where there is one."""
    shares = metrics.get("fusion")  # none in metrics of version 0.1.0
    if not shares:
        return
    parts = []
    for name, share in shares.items():
        of = "log " if share["transform"] == "log" else ""
        parts.append(f"{share['weight']:.3g} x {of}{name}" if share["weight"] else f"no {name}")
    yield f"fusion, chosen on validation: logits + {' + '.join(parts)}"


def _remarks(metrics: dict[str, Any]) -> Iterator[str]:
    """What the trainings of a run have to tell; version 0.1.0 wrote nothing of it."""
    for model, history in metrics["history"].items():
        history = history or {}
        n_users, of_users = history.get("validation_users"), history.get("of_users")
        if n_users != of_users:
            yield f"{model}: selected on a fixed sample of {n_users:,} of {of_users:,} users"
        for kind, text in history.get("remarks", {}).items():
            yield f"{'note' if kind == 'level' else 'warning'}: {model}: {text}"
