"""The search itself: Optuna proposes, an encoder is trained, validation NDCG@10 answers."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pdrec_fast.data import Interactions, Split
from pdrec_fast.data.histories import Holdout
from pdrec_fast.devices import resolve_device
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.errors import NonFiniteLossError
from pdrec_fast.files import remove_directory
from pdrec_fast.fitting.bundle import bundle_exists
from pdrec_fast.fitting.history import History
from pdrec_fast.pipeline import (
    RunConfig,
    SplitSpec,
    check_before_training,
    new_encoder,
    reserved_directory,
    with_possible_protocols,
)
from pdrec_fast.preferences import Preferences
from pdrec_fast.presets import DEFAULT, PRESETS, current_name
from pdrec_fast.presets.base import README_COMMANDS
from pdrec_fast.settings import with_settings
from pdrec_fast.training import MODULES, Module
from pdrec_fast.tuning.proposals import Proposal, Pruned, Study, import_optuna
from pdrec_fast.tuning.results import (
    COMPLETE,
    FAILED,
    PRUNED,
    SearchResult,
    Trial,
    best_of,
    write_trials,
)
from pdrec_fast.tuning.space import (
    Choice,
    Dimension,
    point_of,
    search_space,
    settings_of,
)

logger = logging.getLogger("pdrec_fast")


@dataclass(frozen=True)
class Search:
    """Everything that defines a search, besides the data and the diffusion model.

    Attributes:
        preset: one of ``PRESETS``; the first trial has its settings.
        encoder: name of a built-in encoder.
        modules: of PDRec's training; none for the plain backbone.
        trials: trainings, all in all; more can be added later.
        epochs: of a trial, at most; None for the preset's.
        seed: of the proposals and of every training.
        fixed: settings (as ``--set`` names them) that differ from the preset's and are not
            searched.
        first: settings of further first trials, each a change of the preset's in what is searched.
        split: how the data are split; the test part is put aside.
    """

    preset: str = DEFAULT
    encoder: str = "sasrec"
    modules: tuple[Module, ...] = MODULES
    trials: int = 30
    epochs: int | None = None
    seed: int = 0
    fixed: dict[str, Any] = field(default_factory=dict)
    first: tuple[dict[str, Any], ...] = ()
    split: SplitSpec = field(default_factory=SplitSpec)

    def __post_init__(self) -> None:
        object.__setattr__(self, "preset", current_name(self.preset))
        if self.preset not in PRESETS:
            raise ValueError(f"preset={self.preset!r}: begin with one of {list(PRESETS)}")
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder={self.encoder!r}: choose one of {list(ENCODERS)}")
        if "fusion" in self.modules:
            raise ValueError(
                "modules: 'fusion' changes no training and chooses its shares by itself: search "
                "without it, and run with it what was found"
            )
        if self.trials < 1:
            raise ValueError(f"trials={self.trials} must be at least 1")
        for key in self.fixed:
            if key == "evaluation_seed" or key.rpartition(".")[2] in ("seed", "modules"):
                raise ValueError(f"{key} cannot be fixed: it is no setting that a preset has")

    def config(self) -> RunConfig:
        """The run that the search begins with."""
        config = RunConfig.from_preset(
            self.preset, encoder=self.encoder, modules=self.modules, seed=self.seed
        )
        config = replace(with_settings(config, self.fixed), split=self.split)
        if self.epochs is not None:
            config = replace(config, pdrec=replace(config.pdrec, epochs=self.epochs))
        return config


def tune(
    data: Interactions,
    search: Search | None = None,
    *,
    out: str | Path,
    diffusion: DiffRec | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> SearchResult:
    """Search for settings by validation NDCG@10 (protocol ``select_by``); never looks at the test.

    The first trial has the preset's own settings, the next those of the authors' README where they
    are others, then come the search's ``first``, so that the best trial is no worse than any of
    them on validation. The trials of a search depend on its seed and on the trials before them
    alone: one that was killed goes on where it was, to the same result.

    Args:
        out: directory for the diffusion model, if one is needed and none was given, and for
            ``trials.csv`` and Optuna's storage ``trials.db``.
        diffusion: a model fitted on this data's training part; its settings replace those of the
            preset.
        device: see ``pdrec_fast.run``.

    Raises:
        MissingExtraError: Optuna is not installed.
        CheckpointError: ``out`` holds something else, or another process is at work there.
        DataError, ValueError: see ``pdrec_fast.run``.
    """
    search, out = search or Search(), Path(out)
    trainer = _Trainer(data, search, out, diffusion, resolve_device(device), progress)
    config, space = trainer.config, trainer.space
    import_optuna()
    with reserved_directory(out, "search", trainer.description):
        study = Study(out / "trials.db", space, trainer.starts, seed=search.seed)
        try:
            while len(study.trials) < search.trials:
                proposal = study.propose()
                study.keep(proposal, *trainer.train(proposal))
                write_trials(out / "trials.csv", study.trials)
                trainer.clear()
                _log(study.trials, search.trials)
            trials = study.trials
        finally:
            study.close()
    return SearchResult(
        base=search.preset,
        encoder=search.encoder,
        modules=config.pdrec.modules,
        seed=search.seed,
        epochs=config.pdrec.epochs,
        protocol=config.pdrec.select_by,
        data=data.fingerprint(),
        fixed=dict(search.fixed),
        first=search.first,
        trials=trials,
    )


class _Trainer:
    """Trains what is proposed, on data without their test part."""

    def __init__(
        self,
        data: Interactions,
        search: Search,
        out: Path,
        diffusion: DiffRec | None,
        device: torch.device,
        progress: bool,
    ) -> None:
        self.out, self.diffusion, self.device, self.progress = out, diffusion, device, progress
        config = search.config()
        if diffusion is not None:
            if any(key.startswith("diffusion.") for key in search.fixed):
                raise ValueError("diffusion.* cannot be fixed where a diffusion model is given")
            config = replace(config, diffusion=diffusion.config)
        split = config.split.apply(data)
        self.config, _ = with_possible_protocols(config, split)
        self.split = without_test(split)
        check_before_training(
            self.config, self.split, diffusion, [new_encoder(self.config, device)]
        )
        self.space, self.starts = _space_and_starts(search, self.config)
        self.description: dict[str, Any] = {
            "config": self.config.describe(),
            "first": list(search.first),
            "space": json.loads(json.dumps({k: asdict(v) for k, v in self.space.items()})),
            "data": data.fingerprint(),
            "diffusion": diffusion.fingerprint() if diffusion else None,
        }
        self._preferences: dict[float, Preferences] = {}

    def train(self, proposal: Proposal) -> tuple[str, History]:
        """How a trial ended, and what it saw."""
        config = with_settings(self.config, proposal.settings)
        preferences = self.preferences(config) if config.needs_preferences else None
        model, seen = new_encoder(config, self.device), History()

        def watch(history: History) -> None:
            nonlocal seen
            seen = history
            proposal.watch(history)

        try:
            model.fit(
                self.split,
                preferences,
                checkpoint=self.out / f"trial-{proposal.number}.checkpoint",
                progress=self.progress,
                on_epoch_end=watch,
            )
        except Pruned:
            return PRUNED, seen
        except NonFiniteLossError as error:
            logger.warning("%s", error)
            return FAILED, seen
        return COMPLETE, seen

    def clear(self) -> None:
        """Remove the checkpoints of finished trials."""
        for checkpoint in self.out.glob("trial-*.checkpoint"):
            remove_directory(checkpoint)
        for leftover in self.out.glob(".trial-*.checkpoint.*"):
            shutil.rmtree(leftover)

    def preferences(self, config: RunConfig) -> Preferences:
        """Those of the configuration, inferred once for every ω_m with the largest m."""
        if config.omega_m not in self._preferences:
            searched = self.space.get("top_m")
            self._preferences[config.omega_m] = Preferences.infer(
                self._fitted_diffusion(),
                self.split.train,
                top_m=max(searched.values) if isinstance(searched, Choice) else config.top_m,
                omega_m=config.omega_m,
                n_draws=config.n_draws,
                seed=config.pdrec.seed,
                progress=self.progress,
            )
        inferred = self._preferences[config.omega_m]
        return replace(inferred, top_items=inferred.top_items[:, : config.top_m])

    def _fitted_diffusion(self) -> DiffRec:
        """The model that was given, or one in ``out``, trained where it is not there yet."""
        if self.diffusion is None:
            path, checkpoint = self.out / "diffusion", self.out / "diffusion.checkpoint"
            if bundle_exists(path):
                self.diffusion = DiffRec.load(path, device=self.device)
            else:
                self.diffusion = DiffRec(self.config.diffusion, device=self.device)
                self.diffusion.fit(self.split, checkpoint=checkpoint, progress=self.progress)
                self.diffusion.save(path)
                shutil.rmtree(checkpoint, ignore_errors=True)
        return self.diffusion


def without_test(split: Split) -> Split:
    """The split without its test cases. Their items stay known as such: they are no negatives."""
    return replace(split, test=Holdout(split.test.histories[:0], split.test.targets[:0]))


def _space_and_starts(
    search: Search, config: RunConfig
) -> tuple[dict[str, Dimension], list[dict[str, Any]]]:
    """Where to search, and the first trials there: the preset's settings, the README's where they
    differ, and what the search says."""
    tried = {key for first in search.first for key in first}
    space = search_space(config, search.fixed, tried)
    own = point_of(config, space)
    searched = settings_of(own, space)
    commands = README_COMMANDS.get(search.preset, {}).get(search.encoder, {})
    changes = [{k: v for k, v in commands.items() if k in searched}, *search.first]
    for first in search.first:
        if unknown := first.keys() - searched.keys():
            raise ValueError(f"{', '.join(sorted(unknown))}: not searched, so not to be tried")
    points = [own]
    for change in changes:
        point = point_of(with_settings(config, change), space)
        if point not in points:
            points.append(point)
    for key in space:
        for point in points:
            space[key] = space[key].including(point[key])
    return space, points


def _log(trials: Sequence[Trial], wanted: int) -> None:
    last = trials[-1]
    value = "no value" if last.value is None else f"{last.value:.4f} at epoch {last.best_epoch}"
    best = best_of(trials)
    logger.info(
        "%d of %d trials; trial %d %s: %s of %d, %.0f s; best %s",
        len(trials),
        wanted,
        last.number,
        last.state,
        value,
        last.epochs,
        last.seconds,
        f"{best.value:.4f} (trial {best.number})" if best else "none",
    )
