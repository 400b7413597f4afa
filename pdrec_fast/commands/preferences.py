"""The command ``preferences``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdrec_fast import options as opt
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.errors import CheckpointError
from pdrec_fast.fitting.bundle import bundle_exists
from pdrec_fast.part_jobs import rank_here
from pdrec_fast.pipeline import DIFFUSION, RunConfig, read_run, tested_models
from pdrec_fast.pipeline.given import split_of
from pdrec_fast.preferences import Preferences
from pdrec_fast.training import PDRec


def preferences(
    run_dir: opt.RunDir,
    out: Annotated[
        Path,
        typer.Option(
            metavar="PARTS",
            help="Folder of parts. A job that was interrupted continues when the same command is "
            "given again; so do others that are given it meanwhile.",
        ),
    ],
    top_m: Annotated[
        int | None, typer.Option(help="Soft positives of a user. Default: the run's.")
    ] = None,
    omega_m: Annotated[
        float | None, typer.Option(help="Where the pool of negatives begins. Default: the run's.")
    ] = None,
    n_draws: Annotated[
        int | None, typer.Option(help="Negatives drawn for a user. Default: the run's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the draws. Default: the run's.")
    ] = None,
    part_size: opt.PartSize = 1 << 16,
    rank: opt.Rank = None,
    world: opt.World = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    quiet: opt.Quiet = False,
) -> None:
    """What the diffusion model, or the guide, of a finished run says of each user, for training.

    Of the training part of the run's data. See docs/workers.md for several machines.
    """
    opt.use_threads(threads)
    rank, world = rank_here(rank, world)
    config = RunConfig.from_description(read_run(run_dir)["config"])
    scorer = _scorer(run_dir, config, device)
    done = Preferences.infer_parts(
        scorer,
        split_of(run_dir, config.split, scorer.interactions()).train,
        out,
        top_m=config.top_m if top_m is None else top_m,
        omega_m=config.omega_m if omega_m is None else omega_m,
        n_draws=config.n_draws if n_draws is None else n_draws,
        seed=config.pdrec.seed if seed is None else seed,
        part_size=part_size,
        rank=rank,
        world=world,
        progress=not (quiet or rank),
    )
    if not rank:
        print(opt.what_is_there(out, done, rank, world))


def _scorer(run_dir: Path, config: RunConfig, device: str) -> DiffRec | PDRec:
    """What gives the preferences of a run: a model that has not seen its test."""
    name = "diffusion" if config.guide == DIFFUSION else "guide"
    place = tested_models(run_dir) / name
    if not bundle_exists(place):
        raise CheckpointError(
            f"{place}: this run trained no such model; name the run that did, such as the one that "
            "--diffusion named"
        )
    kind = DiffRec if name == "diffusion" else PDRec
    return kind.load(place, device=device)
