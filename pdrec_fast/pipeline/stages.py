"""The stages of a run, each done once, and what is checked before the first."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pdrec_fast.data import Interactions, Split
from pdrec_fast.data.sequences import pack
from pdrec_fast.diffusion import DiffRec, LinearDenoiser
from pdrec_fast.errors import CheckpointError, DataError
from pdrec_fast.evaluation import (
    PAPER_NEGATIVES,
    PROTOCOLS,
    Popularity,
    Scorer,
    can_sample,
    few_lack_negatives,
)
from pdrec_fast.files import read_json, remove_directory, remove_leftovers, write_json
from pdrec_fast.fitting.bundle import bundle_exists
from pdrec_fast.fitting.callbacks import Callback
from pdrec_fast.pipeline.configuration import RunConfig
from pdrec_fast.pipeline.guides import DIFFUSION, GuideKind
from pdrec_fast.pipeline.more_epochs import may_go_on
from pdrec_fast.preferences import Preferences
from pdrec_fast.ranks import ALONE, Mesh
from pdrec_fast.training import PDRec
from pdrec_fast.training.batches import check_trainable
from pdrec_fast.training.guidance import check_preferences

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

logger = logging.getLogger("pdrec_fast")
STAGES = ("diffusion", "guide", "preferences", "encoder", "fusion", "evaluation")


class Models(NamedTuple):
    """The models of a run; None where it has no such one."""

    diffusion: DiffRec | None = None
    guide: Any = None
    preferences: Preferences | None = None
    model: PDRec | None = None


class Stages:
    """The stages of a run, each skipped when its result already lies in ``out``.

    Args:
        callbacks: told of every training.
        former: models that trainings start from, where there are any.
        mesh: the processes that run them together; the first one alone writes.

    Attributes:
        seconds: time of every stage, that of earlier processes included; 0 where there is none.
        peak_rss_gib: most memory that the run's processes have used; None where the system does
            not say.
    """

    def __init__(
        self,
        out: Path | None,
        device: torch.device,
        progress: bool,
        callbacks: Sequence[Callback] = (),
        former: Models | None = None,
        mesh: Mesh = ALONE,
    ) -> None:
        self.out, self.device, self.progress, self.mesh = out, device, progress, mesh
        self.callbacks, self.former = callbacks, former or Models()
        # Kept on disk too: a stage done by an earlier, killed process still counts.
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.peak_rss_gib: float | None = None
        if out is not None and (out / "stages.json").exists():
            self._read(out / "stages.json")

    def _read(self, file: Path) -> None:
        try:
            found = read_json(file)
            self.seconds, self.peak_rss_gib = found["seconds"], found["peak_rss_gib"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file}: damaged ({error}); delete it, its times are then counted anew"
            ) from None

    def diffusion(
        self,
        config: RunConfig,
        data: Split | Interactions,
        fitted: DiffRec | None,
        selected: DiffRec | None = None,
    ) -> DiffRec:
        """The trained model, or ``fitted``.

        Args:
            data: a split to select epochs on, or all records, where ``selected`` says how many.
            selected: the model of the selection, trained for as many epochs as this one will be.
        """
        if fitted is not None:
            return fitted
        last = config.encoder == DIFFUSION and not selected
        if self._done("diffusion"):
            model = DiffRec.load(self._path("diffusion"), device=self.device)
            self._drop_checkpoint("diffusion", model, last)
            return model
        model = DiffRec(config.diffusion, device=self.device)
        model.fit(
            data,
            warm_start=self.former.diffusion,
            epochs=_epochs_of(selected),
            **self._training("diffusion"),
        )
        self._keep("diffusion", model, last=last)
        return model

    def preferences(self, config: RunConfig, train: Interactions, scorer: Scorer) -> Preferences:
        if self._done("preferences"):
            return Preferences.load(self._path("preferences"))
        started = time.monotonic()
        result = Preferences.infer(
            scorer,
            train,
            top_m=config.top_m,
            omega_m=config.omega_m,
            n_draws=config.n_draws,
            seed=config.pdrec.seed,
            progress=self.progress,
            mesh=self.mesh,
        )
        if self.out is not None:
            self.mesh.once(lambda: result.save(self._path("preferences")))
        self.record("preferences", time.monotonic() - started)
        return result

    def guide(
        self,
        kind: GuideKind,
        model: Any,
        data: Split | Interactions,
        selected: Any = None,
    ) -> Any:
        """The trained ``model`` of this kind.

        Args:
            selected: see ``diffusion``.
        """
        if self._done("guide"):
            guide = kind.model.load(self._path("guide"), device=self.device)
            self._drop_checkpoint("guide", guide, False)
            return guide
        if kind.in_epochs:
            start = self.former.guide if isinstance(model, PDRec) else None
            epochs, training = _epochs_of(selected), self._training("guide")
            model.fit(data, warm_start=start, epochs=epochs, **training)
            self._keep("guide", model)
        else:
            started = time.monotonic()
            model.fit(data)
            self._keep("guide", model, seconds=time.monotonic() - started)
        return model

    def encoder(
        self,
        model: PDRec,
        data: Split | Interactions,
        preferences: Preferences | None = None,
        guides: Mapping[str, Scorer] | None = None,
        selected: PDRec | None = None,
    ) -> PDRec:
        """The trained ``model``.

        Args:
            selected: see ``diffusion``; its shares are those that this one takes.
        """
        if self._done("model"):
            model = PDRec.load(self._path("model"), device=self.device)
            self._drop_checkpoint("model", model, not selected)
            return model
        fusion = None if selected is None else selected.fusion
        model.fit(
            data,
            preferences,
            guides=guides,
            shares=None if fusion is None else fusion.shares,
            warm_start=self.former.model,
            epochs=_epochs_of(selected),
            **self._training("model"),
        )
        if model.fusion is not None:
            self.record("fusion", self.seconds.get("fusion", 0.0) + model.fusion_seconds)
        self._keep("model", model, last=not selected)
        return model

    def guides(
        self, config: RunConfig, train: Interactions, guide: Scorer | None
    ) -> dict[str, Scorer]:
        """What the fusion may add to the model's logits, by name; nothing where that is done."""
        if not config.fuses or self._done("model"):
            return {}
        found: dict[str, Scorer] = {}
        for name in config.fusion_guides:
            if name == "guide":
                assert guide is not None
                found[name] = guide
            elif name == config.guide and "guide" in config.fusion_guides:
                continue  # one model need not have two shares
            elif name == "linear":
                started = time.monotonic()
                found[name] = LinearDenoiser(config.linear).fit(train)
                self.record("fusion", time.monotonic() - started)
            else:
                found[name] = Popularity(train)
        return found

    def record(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = seconds
        measured = [peak for peak in (self.peak_rss_gib, peak_rss_gib()) if peak is not None]
        self.peak_rss_gib = max(measured, default=None)
        if self.out is not None and self.mesh.is_first:
            found = {"seconds": self.seconds, "peak_rss_gib": self.peak_rss_gib}
            write_json(self.out / "stages.json", found)

    def _path(self, name: str) -> Path:
        assert self.out is not None
        return self.out / name

    def _training(self, name: str) -> dict[str, Any]:
        """What every training of this run is given."""
        return {
            "checkpoint": None if self.out is None else self.out / f"{name}.checkpoint",
            "progress": self.progress,
            "callbacks": self.callbacks,
            "mesh": self.mesh,
        }

    def _done(self, name: str) -> bool:
        return self.out is not None and bool(self.mesh.agreed(bundle_exists(self.out / name)))

    def _keep(
        self,
        name: str,
        model: Any,
        *,
        seconds: float | None = None,
        last: bool = False,
    ) -> None:
        """Save a trained model.

        Args:
            seconds: that its training took; None where its history says it.
            last: no other training builds on this one, so that more epochs may be had of it.
        """
        if self.out is not None:
            self.mesh.once(lambda: model.save(self._path(name)))
        if seconds is None:
            seconds = model.history.seconds
        self.record("encoder" if name == "model" else name, seconds)
        self._drop_checkpoint(name, model, last)

    def _drop_checkpoint(self, name: str, model: Any, last: bool) -> None:
        """Remove the checkpoint of a model that is saved, unless more epochs may be had of it; and
        what killed processes have left."""
        if self.out is None or not self.mesh.is_first:
            return
        going_on = last and may_go_on(model.config, model.history)
        (remove_leftovers if going_on else remove_directory)(self.out / f"{name}.checkpoint")


def _epochs_of(selected: Any) -> int | None:
    """How many epochs made the weights of ``selected``."""
    history = None if selected is None else selected.history
    if history is None:
        return None
    epochs: int = history.best_epoch + 1 if history.validations else history.epochs
    return epochs


def with_possible_protocols(config: RunConfig, split: Split) -> tuple[RunConfig, tuple[str, ...]]:
    """Leave out the sampled protocol where more than a few users have too few items to sample."""
    tested = np.union1d(split.valid.users, split.test.users)
    if few_lack_negatives(can_sample(split.data, tested)):
        return config, tuple(PROTOCOLS)
    logger.warning(
        "the corpus is too small for the 'paper' protocol (%d sampled negatives): models are "
        "selected and tested under 'full' alone",
        PAPER_NEGATIVES,
    )
    return replace(
        config,
        diffusion=replace(config.diffusion, select_by="full"),
        pdrec=replace(config.pdrec, select_by="full"),
        codigem=replace(config.codigem, select_by="full"),
        latent=replace(config.latent, select_by="full"),
    ), ("full",)


def with_given_preferences(
    config: RunConfig, train: Interactions, preferences: Preferences, diffusion: DiffRec | None
) -> RunConfig:
    """The configuration with what preferences were inferred with that take the guide's place.

    Args:
        diffusion: the model that was given as well.

    Raises:
        ValueError: nothing would use them, or they are not enough, or there is more that they
            would take the place of.
        DataError: they were inferred on other interactions.
    """
    if not config.needs_preferences:
        raise ValueError(
            "preferences were given, but no module that would use them: leave them out, or choose "
            "modules among hbr, dpa and nns"
        )
    if not config.fuses_guide and (diffusion is not None or config.guide != DIFFUSION):
        other = f"guide={config.guide!r}" if diffusion is None else "the diffusion model"
        raise ValueError(
            f"{other} has no effect beside the preferences that were given: leave out one of the "
            "two"
        )
    if config.final:
        raise ValueError(
            "final=True trains on all records, and the preferences that were given are of the "
            "training part: leave out one of the two"
        )
    check_preferences(config.pdrec, train, preferences)
    top_m, n_draws = preferences.top_items.shape[1], preferences.negatives.shape[1]
    if "nns" in config.pdrec.modules and config.pdrec.safe_negatives > n_draws:
        raise ValueError(
            f"safe_negatives={config.pdrec.safe_negatives} is more than the preferences' "
            f"n_draws={n_draws}: infer them with more draws, or set fewer safe negatives"
        )
    return replace(config, top_m=top_m, omega_m=preferences.omega_m, n_draws=n_draws)


def check_before_training(
    config: RunConfig, split: Split, diffusion: DiffRec | None, encoders: Iterable[PDRec]
) -> None:
    """Find now what would otherwise be found after hours, in a later stage."""
    if diffusion is not None:
        if not config.guided_by_diffusion:
            raise ValueError(
                f"guide={config.guide!r} takes the place of the diffusion model that was given: "
                "leave out one of the two"
            )
        if not config.needs_diffusion:
            raise ValueError("a diffusion model was given, but no module that would use it")
        if diffusion.trained_on != split.train.fingerprint():
            raise DataError(
                "the diffusion model was fitted on other training interactions than this data's: "
                "its preferences could hold the answers of the test"
            )
    for model in encoders:
        encoder = model.new_encoder(split.train.n_items)
        check_trainable(split.train, encoder, model.config)
        histories = split.train.histories()
        longest = histories[[int(np.argmax(histories.lengths))]]
        # An implementation that was named may not run here.
        with torch.no_grad():
            times = getattr(encoder, "reads_times", False)
            encoder.eval()(pack(longest, encoder.max_length, times=times).to(model.device))


def peak_rss_gib() -> float | None:
    """Most memory that this process has used, where the system says it."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 30 if sys.platform == "darwin" else 1 << 20)
