"""The stages of a run, each done once, and what is checked before the first."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdrec_fast.data import Split
from pdrec_fast.data.sequences import pack
from pdrec_fast.diffusion import DiffRec, LinearDenoiser
from pdrec_fast.errors import CheckpointError
from pdrec_fast.evaluation import (
    PAPER_NEGATIVES,
    PROTOCOLS,
    Popularity,
    Scorer,
    available_negatives,
)
from pdrec_fast.files import write_json
from pdrec_fast.fitting.bundle import bundle_exists
from pdrec_fast.pipeline.configuration import RunConfig
from pdrec_fast.pipeline.guides import GuideKind
from pdrec_fast.preferences import Preferences
from pdrec_fast.training import PDRec
from pdrec_fast.training.batches import check_trainable

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

logger = logging.getLogger("pdrec_fast")
STAGES = ("diffusion", "guide", "preferences", "encoder", "fusion", "evaluation")


class Stages:
    """The stages of a run, each skipped when its result already lies in ``out``.

    Attributes:
        seconds: time of every stage, that of earlier processes included; 0 where there is none.
        peak_rss_gib: most memory that the run's processes have used; None where the system does
            not say.
    """

    def __init__(self, out: Path | None, device: torch.device, progress: bool) -> None:
        self.out, self.device, self.progress = out, device, progress
        # Kept on disk too: a stage done by an earlier, killed process still counts.
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.peak_rss_gib: float | None = None
        if out is not None and (out / "stages.json").exists():
            self._read(out / "stages.json")

    def _read(self, file: Path) -> None:
        try:
            found = json.loads(file.read_text())
            self.seconds, self.peak_rss_gib = found["seconds"], found["peak_rss_gib"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file}: damaged ({error}); delete it, its times are then counted anew"
            ) from None

    def diffusion(self, config: RunConfig, split: Split, fitted: DiffRec | None) -> DiffRec:
        if fitted is not None:
            return fitted
        if self._done("diffusion"):
            model = DiffRec.load(self._path("diffusion"), device=self.device)
        else:
            model = DiffRec(config.diffusion, device=self.device)
            model.fit(split, checkpoint=self._checkpoint("diffusion"), progress=self.progress)
            self._keep("diffusion", model, model.history.seconds if model.history else 0.0)
        return model

    def preferences(self, config: RunConfig, split: Split, scorer: Scorer) -> Preferences:
        if self._done("preferences"):
            result = Preferences.load(self._path("preferences"))
        else:
            started = time.monotonic()
            result = Preferences.infer(
                scorer,
                split.train,
                top_m=config.top_m,
                omega_m=config.omega_m,
                n_draws=config.n_draws,
                seed=config.pdrec.seed,
                progress=self.progress,
            )
            self._keep("preferences", result, time.monotonic() - started)
        return result

    def guide(self, kind: GuideKind, model: Any, split: Split) -> Any:
        """The trained ``model`` of this kind."""
        if self._done("guide"):
            return kind.model.load(self._path("guide"), device=self.device)
        started = time.monotonic()
        if kind.in_epochs:
            model.fit(split, checkpoint=self._checkpoint("guide"), progress=self.progress)
            seconds = model.history.seconds
        else:
            model.fit(split)
            seconds = time.monotonic() - started
        self._keep("guide", model, seconds)
        return model

    def encoder(
        self,
        model: PDRec,
        split: Split,
        preferences: Preferences | None = None,
        guides: Mapping[str, Scorer] | None = None,
    ) -> PDRec:
        """The trained ``model``."""
        if self._done("model"):
            model = PDRec.load(self._path("model"), device=self.device)
        else:
            checkpoint = self._checkpoint("model")
            model.fit(
                split, preferences, guides=guides, checkpoint=checkpoint, progress=self.progress
            )
            if model.fusion is not None:
                self.record("fusion", self.seconds.get("fusion", 0.0) + model.fusion_seconds)
            self._keep("model", model, model.history.seconds if model.history else 0.0)
        return model

    def guides(self, config: RunConfig, split: Split, guide: Scorer | None) -> dict[str, Scorer]:
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
                found[name] = LinearDenoiser(config.linear).fit(split.train)
                self.record("fusion", time.monotonic() - started)
            else:
                found[name] = Popularity(split.train)
        return found

    def record(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = seconds
        measured = [peak for peak in (self.peak_rss_gib, peak_rss_gib()) if peak is not None]
        self.peak_rss_gib = max(measured, default=None)
        if self.out is not None:
            found = {"seconds": self.seconds, "peak_rss_gib": self.peak_rss_gib}
            write_json(self.out / "stages.json", found)

    def _path(self, name: str) -> Path:
        assert self.out is not None
        return self.out / name

    def _checkpoint(self, name: str) -> Path | None:
        return None if self.out is None else self.out / f"{name}.checkpoint"

    def _done(self, name: str) -> bool:
        return self.out is not None and bundle_exists(self.out / name)

    def _keep(self, name: str, result: Any, seconds: float) -> None:
        if self.out is not None:
            result.save(self._path(name))
        self.record("encoder" if name == "model" else name, seconds)
        if self.out is not None:
            shutil.rmtree(self.out / f"{name}.checkpoint", ignore_errors=True)


def with_possible_protocols(config: RunConfig, split: Split) -> tuple[RunConfig, tuple[str, ...]]:
    """Leave out the sampled protocol where a user has too few items to sample from."""
    tested = np.union1d(split.valid.users, split.test.users)
    if available_negatives(split.data)[tested].min() >= PAPER_NEGATIVES:
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
            raise ValueError(
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
            encoder.eval()(pack(longest, encoder.max_length).to(model.device))


def peak_rss_gib() -> float | None:
    """Most memory that this process has used, where the system says it."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 30 if sys.platform == "darwin" else 1 << 20)
