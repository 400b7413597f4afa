"""``pdrec-fast tune``: search for settings on validation."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pdrec_fast import options as opt
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.files import write_json
from pdrec_fast.pipeline import RunConfig, SplitSpec
from pdrec_fast.presets import DEFAULT, FORMER_NAMES, PRESETS
from pdrec_fast.settings import parse_settings, value_of, with_settings, written
from pdrec_fast.tuning.results import SearchResult, check_file, merge
from pdrec_fast.tuning.search import Search
from pdrec_fast.tuning.search import tune as search_settings


@dataclass(frozen=True)
class _SearchOptions:
    """What is searched, as the options say."""

    preset: Annotated[
        str,
        typer.Option(
            callback=opt.one_of(PRESETS, FORMER_NAMES),
            help=f"What the search begins with ({', '.join(PRESETS)}).",
        ),
    ] = DEFAULT
    encoder: Annotated[
        str,
        typer.Option(
            callback=opt.one_of(ENCODERS), help=f"Sequence encoder ({', '.join(ENCODERS)})."
        ),
    ] = "sasrec"
    modules: opt.Modules = opt.PAPERS_MODULES
    trials: Annotated[
        int, typer.Option(min=1, help="In all; give more to a finished search to go on.")
    ] = 30
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Of a trial, at most; default: the preset's.")
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Of the proposals and of every trial.")] = 0
    settings: opt.Set = None
    first: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="'KEY=VALUE ...'",
            help="Settings of one of the first trials; the others are the preset's. Repeatable.",
        ),
    ] = None

    def search(self, split: SplitSpec) -> Search:
        search = Search(
            preset=self.preset,
            encoder=self.encoder,
            modules=opt.modules_of(self.modules),
            trials=self.trials,
            epochs=self.epochs,
            seed=self.seed,
            split=split,
        )
        search = replace(search, fixed=_values(search.config(), self.settings or []))
        tries = [_values(search.config(), text.split()) for text in self.first or []]
        return replace(search, first=tuple(tries))


@opt.grouped
def tune(
    data: opt.DataOptions,
    out: Annotated[Path, typer.Option(help="Directory for trials and the best; resumable.")],
    chosen: _SearchOptions,
    diffusion: opt.DiffusionRun = None,
    into: Annotated[
        Path | None,
        typer.Option(
            help="Put the best settings into this .json file, which --preset of other commands "
            "takes; entries of other encoders stay."
        ),
    ] = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    quiet: opt.Quiet = False,
) -> None:
    """Search for settings by validation NDCG@10; the test is never looked at.

    The first trial has the preset's own settings; --try adds others to begin with. What --set fixes
    is not searched. Give the plain encoder (--modules none) and the guided one the same trials and
    epochs before comparing them. A search that was interrupted continues when the same command is
    given again.
    """
    opt.use_threads(threads)
    search = chosen.search(data.split)
    if into is not None:
        check_file(into, search.preset)
    model = None if diffusion is None else opt.diffusion_of(diffusion, device)
    try:
        result = search_settings(
            data.read(), search, out=out, diffusion=model, device=device, progress=not quiet
        )
    except KeyboardInterrupt:
        print("interrupted; the same command continues the search", file=sys.stderr)
        raise typer.Exit(130) from None
    used = out if diffusion is None and result.modules else diffusion
    best = _best(result, _run_command(data, result, used, out))
    write_json(out / "best.json", best)
    print(_text(best, out))
    if into is not None:
        merge(into, result, _search_command(data, result, diffusion))
        print(f"merged into {into}")


def _values(config: RunConfig, settings: Sequence[str]) -> dict[str, Any]:
    """The values that settings written as ``KEY=VALUE`` give."""
    given = parse_settings(settings)
    config = with_settings(config, given)
    return {key: value_of(config, key) for key in given}


def _best(result: SearchResult, command: str) -> dict[str, Any]:
    return result.summary() | {
        "settings": result.settings,
        "set": written(result.settings),
        "run": command,
    }


def _run_command(
    data: opt.DataOptions, result: SearchResult, diffusion: Path | None, out: Path
) -> str:
    """The ``pdrec-fast run`` that uses the best settings, and the search's diffusion model."""
    settings = result.settings
    if diffusion is not None:
        settings = {k: v for k, v in settings.items() if not k.startswith("diffusion.")}
    assigned = [text for pair in written(settings) for text in ("--set", pair)]
    where = ["--out", str(out / "best")]
    return shlex.join(["pdrec-fast", "run", *_common(data, result, diffusion), *assigned, *where])


def _search_command(data: opt.DataOptions, result: SearchResult, diffusion: Path | None) -> str:
    """The search, for readers elsewhere: files by their names."""
    named = replace(data, data=Path(data.data.name), source=data.source and Path(data.source.name))
    budget = ["--trials", str(len(result.trials)), "--epochs", str(result.epochs)]
    assigned = [text for pair in written(result.fixed) for text in ("--set", pair)]
    tries = [text for of in result.first for text in ("--try", " ".join(written(of)))]
    model = None if diffusion is None else Path(diffusion.name)
    options = [*_common(named, result, model), *budget, *assigned, *tries]
    return shlex.join(["pdrec-fast", "tune", *options])


def _common(data: opt.DataOptions, result: SearchResult, diffusion: Path | None) -> list[str]:
    chosen = [*data.arguments(), "--preset", result.base, "--encoder", result.encoder]
    chosen += ["--modules", ",".join(result.modules) or "none", "--seed", str(result.seed)]
    return chosen if diffusion is None else [*chosen, "--diffusion", str(diffusion)]


def _text(best: dict[str, Any], out: Path) -> str:
    before = "diverged" if best["before"] is None else f"{best['before']:.4f}"
    lines = [
        f"{best['metric']}: {before} with the preset, {best['after']:.4f} with trial "
        f"{best['best_trial']} of {best['trials']} (epoch {best['best_epoch']})",
        *(f"  --set {setting}" for setting in best["set"]),
        "",
        best["run"],
        "",
        f"written to {out / 'best.json'} and {out / 'trials.csv'}",
    ]
    return "\n".join(lines)
