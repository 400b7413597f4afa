"""A finished run brought up to date: its models go on from where they are, on new data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pdrec_fast.data import Interactions, Split
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.fitting.bundle import bundle_exists
from pdrec_fast.fitting.callbacks import Callback
from pdrec_fast.pipeline.configuration import RunConfig, SplitSpec
from pdrec_fast.pipeline.former import first_config, read_run
from pdrec_fast.pipeline.given import SPLIT
from pdrec_fast.pipeline.runner import RunResult, run
from pdrec_fast.preferences import Preferences
from pdrec_fast.ranks import ALONE, Mesh
from pdrec_fast.settings import with_settings

# What is left to learn takes few epochs; see docs/updating.md for what was measured.
UPDATE_SETTINGS: dict[str, Any] = {
    "diffusion.epochs": 20,
    "diffusion.patience": 4,
    "pdrec.epochs": 12,
    "pdrec.patience": 2,
}


def update(
    run_dir: str | Path,
    data: Interactions | Split,
    *,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    split: SplitSpec | None = None,
    final: bool | None = None,
    diffusion: DiffRec | None = None,
    preferences: Preferences | None = None,
    device: str | torch.device = "auto",
    cuda_graphs: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    mesh: Mesh = ALONE,
) -> RunResult:
    """Train the models of a finished run for a few more epochs on data that have changed.

    Users and items may be new. What was learned of items that are still there is kept, by raw id;
    new ones start as in a new model. Everything else is as in ``run``: split, early stopping on the
    new validation part, shares chosen anew, test. What guides and is
    neither the diffusion model nor an encoder is fitted anew, and so is the linear denoiser.

    Args:
        run_dir: of the finished run; it stays as it is.
        data: all interactions up to now, the old ones too; of a run whose split was given, a split.
        out: directory of the new run, see ``run``.
        settings: dotted keys, see ``with_settings``, on top of the run's own and of
            ``UPDATE_SETTINGS``: the most epochs, where the run had no fewer, and patience.
        split: by time; of a run that was split by time it must be given. None: leave-one-out.
        final: train on all records at the end, see ``RunConfig``; None as the run did.
        diffusion, preferences, device, cuda_graphs, progress, callbacks, mesh: see ``run``.

    Raises:
        CheckpointError: no finished run lies in ``run_dir``, or another one in ``out``.
        DataError, ValueError: see ``run``.
    """
    marker = read_run(Path(run_dir))
    config = update_config(first_config(marker), settings or {})
    given = isinstance(data, Split)
    if bundle_exists(Path(run_dir) / SPLIT) and not given:
        raise ValueError(
            f"{run_dir}: its split was given; give one of the new data (given_split), on the "
            "command line --valid-file and --test-file"
        )
    if "preferences" in marker and preferences is None and diffusion is None:
        raise ValueError(
            f"{run_dir}: its preferences were given; give those of the new data (preferences=, on "
            "the command line --preferences), or the diffusion model to infer them from"
        )
    if split is None and config.split != SplitSpec() and not given:
        raise ValueError(
            f"{run_dir}: was split by time; give the times for the new data: split=, on the "
            "command line --valid-from and --test-from"
        )
    config = replace(config, split=split or SplitSpec())
    return run(
        data,
        config if final is None else replace(config, final=final),
        out=out,
        diffusion=diffusion,
        preferences=preferences,
        warm_start=run_dir,
        device=device,
        cuda_graphs=cuda_graphs,
        progress=progress,
        callbacks=callbacks,
        mesh=mesh,
    )


def update_config(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The configuration of an update of a run that began with ``config``."""
    fewer: dict[str, Any] = {}
    for key, value in UPDATE_SETTINGS.items():
        group, _, name = key.partition(".")
        fewer[key] = min(value, getattr(getattr(config, group), name))
    if config.pdrec.min_epochs > fewer["pdrec.epochs"]:
        fewer["pdrec.min_epochs"] = 0
    return with_settings(config, fewer | dict(settings))
