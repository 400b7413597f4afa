"""The whole job: diffusion, preferences, encoder, test; resumable, all figures in one file."""

from __future__ import annotations

import json
import logging
import platform
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pdrec_fast
from pdrec_fast.data import Interactions, Split, global_time_split, leave_one_out
from pdrec_fast.devices import device_name, resolve_device
from pdrec_fast.diffusion import DiffRec, DiffusionConfig
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.errors import CheckpointError
from pdrec_fast.evaluation import (
    PAPER_NEGATIVES,
    PROTOCOLS,
    AllRanks,
    Evaluator,
    Results,
    Scorer,
    available_negatives,
    summarize_all,
)
from pdrec_fast.files import differences, write_json
from pdrec_fast.fitting.bundle import bundle_exists
from pdrec_fast.fitting.loop import History
from pdrec_fast.preferences import Preferences
from pdrec_fast.presets import kind_of, preset_of
from pdrec_fast.training import MODULES, Module, PDRec, PDRecConfig
from pdrec_fast.training.batches import check_trainable

logger = logging.getLogger("pdrec_fast")
# As an encoder's name: the diffusion model is the recommender; as a guide's: it guides the encoder.
DIFFUSION = "diffusion"
STAGES = ("diffusion", "guide", "preferences", "encoder", "evaluation")
LOG = "log.txt"  # may lie in a run's directory before the run does


@dataclass(frozen=True)
class SplitSpec:
    """How the data are split: leave-one-out, or by global time when both limits are given."""

    valid_from: float | None = None
    test_from: float | None = None

    def __post_init__(self) -> None:
        if (self.valid_from is None) != (self.test_from is None):
            raise ValueError("a split by time needs both valid_from and test_from")

    def apply(self, data: Interactions) -> Split:
        if self.valid_from is None or self.test_from is None:
            return leave_one_out(data)
        return global_time_split(data, self.valid_from, self.test_from)


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run, besides the data.

    Attributes:
        diffusion, pdrec: settings of the two models.
        encoder: name of a built-in encoder, or ``"diffusion"`` for the diffusion model alone.
        encoder_options: passed to the encoder.
        guide: source of the preferences: ``"diffusion"``, or the name of an encoder that is trained
            without modules in its place (the paper's "without TI-DiffRec": a second SASRec), with
            the settings of ``pdrec``, the seed after ``pdrec.seed`` and, where it is of the
            encoder's own kind, ``encoder_options``.
        top_m, omega_m, n_draws: see ``Preferences.infer``.
        split: how the data are split.
        evaluation_seed: of the sampled negatives of the ``paper`` protocol, in the final test
            (selection always looks at those of seed 0).
    """

    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    pdrec: PDRecConfig = field(default_factory=PDRecConfig)
    encoder: str = "sasrec"
    encoder_options: dict[str, Any] = field(default_factory=dict)
    guide: str = DIFFUSION
    top_m: int = 50
    omega_m: float = 0.5
    n_draws: int = 1024
    split: SplitSpec = field(default_factory=SplitSpec)
    evaluation_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("encoder", "guide"):
            if getattr(self, name) not in (*ENCODERS, DIFFUSION):
                raise ValueError(
                    f"unknown {name}={getattr(self, name)!r}; choose one of "
                    f"{[*ENCODERS, DIFFUSION]}"
                )
        if self.guide != DIFFUSION and not self.needs_preferences:
            raise ValueError(f"guide={self.guide!r} was given, but no module that would use it")
        if self.top_m < 1 or self.n_draws < 1:
            raise ValueError(f"top_m={self.top_m} and n_draws={self.n_draws} must be at least 1")
        if "dpa" in self.pdrec.modules and self.pdrec.dpa_top_n > self.top_m:
            raise ValueError(f"dpa_top_n={self.pdrec.dpa_top_n} is more than top_m={self.top_m}")
        if not 0 <= self.omega_m < 1:
            raise ValueError(f"omega_m must lie in [0, 1), got {self.omega_m}")
        if self.evaluation_seed < 0:
            raise ValueError(f"evaluation_seed={self.evaluation_seed} must not be negative")

    @classmethod
    def from_preset(
        cls,
        name: str,
        *,
        encoder: str = "sasrec",
        modules: tuple[Module, ...] = MODULES,
        guide: str = DIFFUSION,
        seed: int = 0,
    ) -> RunConfig:
        """The settings of a preset (``pdrec_fast.presets``) with one seed for everything.

        A tuned preset, or a file that ``pdrec-fast tune`` wrote, has settings of its own for every
        encoder: those of the plain backbone where ``modules`` is empty, the guided ones otherwise.

        Raises:
            ValueError: no such preset, or it has nothing for this encoder.
        """
        trained = None if encoder == DIFFUSION else encoder
        preset = preset_of(name, encoder=trained, kind=kind_of(modules))
        return cls(
            diffusion=replace(preset.diffusion, seed=seed),
            pdrec=replace(preset.pdrec, modules=modules, seed=seed),
            encoder=encoder,
            encoder_options=dict(preset.encoder_options),
            guide=guide,
            top_m=preset.top_m,
            omega_m=preset.omega_m,
            n_draws=preset.n_draws,
        )

    @property
    def needs_preferences(self) -> bool:
        return bool(self.pdrec.modules) and self.encoder != DIFFUSION

    @property
    def needs_diffusion(self) -> bool:
        return self.encoder == DIFFUSION or (self.needs_preferences and self.guide == DIFFUSION)

    def of_guide(self) -> RunConfig:
        """The run that trains the guide, where that is an encoder."""
        return replace(
            self,
            encoder=self.guide,
            encoder_options=self.encoder_options if self.guide == self.encoder else {},
            guide=DIFFUSION,
            pdrec=replace(self.pdrec, modules=(), seed=(self.pdrec.seed + 1) % 2**32),
        )

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


@dataclass
class RunResult:
    """What a run leaves: the metrics (as in ``metrics.json``), the ranks behind them, models."""

    metrics: dict[str, Any]
    ranks: AllRanks  # of the encoder, or of the diffusion model where that is the recommender
    split: Split
    diffusion: DiffRec | None
    preferences: Preferences | None
    model: PDRec | None
    guide: PDRec | None = None  # where an encoder guides the model


def run(
    data: Interactions,
    config: RunConfig | None = None,
    *,
    out: str | Path | None = None,
    diffusion: DiffRec | None = None,
    device: str | torch.device = "auto",
    cuda_graphs: bool = False,
    progress: bool = True,
) -> RunResult:
    """Train the diffusion model or another guide, infer preferences, train the encoder, test all.

    Args:
        out: directory for models, checkpoints and ``metrics.json``. A run killed and started again
            with the same data and settings continues, to the same result; what is finished is not
            done again. None keeps everything in memory.
        diffusion: a model already fitted on this data's training part, instead of a new one;
            its settings replace ``config.diffusion``. As a guide it is not tested here: the metrics
            have None for it.
        device: where the models are trained and score: ``"cpu"``, ``"cuda"``, ...; ``"auto"`` is a
            GPU where there is one. A run can be continued on another.
        cuda_graphs: see ``PDRec``.

    Raises:
        CheckpointError: ``out`` holds a run of other data or settings.
        DataError: nobody has enough interactions to learn from, or nothing is left to recommend.
        ValueError: ``diffusion`` is not needed, or was fitted on other interactions; or there is no
            such device.
    """
    device = resolve_device(device)
    config = config or RunConfig()
    out = None if out is None else Path(out)
    split = config.split.apply(data)
    config, protocols = with_possible_protocols(config, split)
    if diffusion is not None:
        config = replace(config, diffusion=diffusion.config)
    model = guide = None
    if config.encoder != DIFFUSION:
        model = _new_encoder(config, device, cuda_graphs)
    if config.guide != DIFFUSION:
        guide = _new_encoder(config.of_guide(), device, cuda_graphs)
    check_before_training(config, split, diffusion, [m for m in (model, guide) if m is not None])
    description = {
        "config": config.describe(),
        "data": data.fingerprint(),
        "diffusion": diffusion.fingerprint() if diffusion else None,
    }
    if out is not None:
        claim(out, "run", description, beside=LOG)
    stages = _Stages(out, device, progress)
    preferences = None
    given = diffusion
    diffusion = stages.diffusion(config, split, given) if config.needs_diffusion else None
    if guide is not None:
        guide = stages.encoder("guide", guide, split, None)
    source = diffusion if guide is None else guide
    if config.needs_preferences:
        assert source is not None
        preferences = stages.preferences(config, split, source)
    if model is not None:
        model = stages.encoder("model", model, split, preferences)
    models = {"diffusion": diffusion, "guide": guide, "encoder": model}
    untested = () if given is None else ("diffusion",)
    metrics, ranks = _report(config, split, protocols, stages, models, untested)
    if out is not None:
        write_json(out / "metrics.json", metrics)
    return RunResult(metrics, ranks, split, diffusion, preferences, model, guide)


class _Stages:
    """The stages of a run, each skipped when its result already lies in ``out``."""

    def __init__(self, out: Path | None, device: torch.device, progress: bool) -> None:
        self.out, self.device, self.progress = out, device, progress
        # Kept on disk too: a stage done by an earlier, killed process still counts. A stage that
        # this run does not have takes no time.
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.peak_rss_gib = 0.0
        if out is not None and (out / "stages.json").exists():
            found = json.loads((out / "stages.json").read_text())
            self.seconds, self.peak_rss_gib = found["seconds"], found["peak_rss_gib"]

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

    def preferences(self, config: RunConfig, split: Split, source: Scorer) -> Preferences:
        if self._done("preferences"):
            result = Preferences.load(self._path("preferences"))
        else:
            started = time.monotonic()
            result = Preferences.infer(
                source,
                split.train,
                top_m=config.top_m,
                omega_m=config.omega_m,
                n_draws=config.n_draws,
                seed=config.pdrec.seed,
                progress=self.progress,
            )
            self._keep("preferences", result, time.monotonic() - started)
        return result

    def encoder(
        self, name: str, model: PDRec, split: Split, preferences: Preferences | None
    ) -> PDRec:
        """The trained ``model``, kept as ``name``: the model or its guide."""
        if self._done(name):
            model = PDRec.load(self._path(name), device=self.device)
        else:
            checkpoint = self._checkpoint(name)
            model.fit(split, preferences, checkpoint=checkpoint, progress=self.progress)
            self._keep(name, model, model.history.seconds if model.history else 0.0)
        return model

    def _path(self, name: str) -> Path:
        assert self.out is not None
        return self.out / name

    def _checkpoint(self, name: str) -> Path | None:
        return None if self.out is None else self.out / f"{name}.checkpoint"

    def _done(self, name: str) -> bool:
        return self.out is not None and bundle_exists(self.out / name)

    def _keep(self, name: str, result: DiffRec | Preferences | PDRec, seconds: float) -> None:
        if self.out is not None:
            result.save(self._path(name))
        self.record("encoder" if name == "model" else name, seconds)
        if self.out is not None:
            shutil.rmtree(self.out / f"{name}.checkpoint", ignore_errors=True)

    def record(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = seconds
        self.peak_rss_gib = max(self.peak_rss_gib, _peak_rss_gib())
        if self.out is not None:
            found = {"seconds": self.seconds, "peak_rss_gib": self.peak_rss_gib}
            write_json(self.out / "stages.json", found)


def _report(
    config: RunConfig,
    split: Split,
    protocols: tuple[str, ...],
    stages: _Stages,
    models: Mapping[str, DiffRec | PDRec | None],
    untested: Collection[str],
) -> tuple[dict[str, Any], AllRanks]:
    """The metrics, and the ranks of the recommender, which is tested in any case."""
    started = time.monotonic()
    evaluator = Evaluator(split, seed=config.evaluation_seed)
    recommender = models["encoder"] or models["diffusion"]
    assert recommender is not None
    ranks = evaluator.all_ranks(recommender, protocols)

    def tested(name: str) -> Results | None:
        model = models[name]
        if model is recommender:
            return summarize_all(ranks)
        if model is None or name in untested:
            return None
        return summarize_all(evaluator.all_ranks(model, protocols))

    of_diffusion, of_guide = tested("diffusion"), tested("guide")
    stages.record("evaluation", time.monotonic() - started)
    histories = {name: fitted.history if fitted else None for name, fitted in models.items()}
    curves = {name: asdict(history) if history else None for name, history in histories.items()}
    metrics = {
        "dataset": _dataset(split.data),
        "config": config.describe(),
        "protocols": summarize_all(ranks),
        "protocol_notes": {name: PROTOCOLS[name] for name in protocols},
        "diffusion": of_diffusion,
        "guide": of_guide,
        "epochs": {name: _epochs(history) for name, history in histories.items()},
        "history": curves,
        "split": str(split.report).splitlines(),
        "seconds": {key: round(value, 4) for key, value in stages.seconds.items()},
        "peak_rss_gib": round(stages.peak_rss_gib, 3),
        "environment": {
            "pdrec_fast": pdrec_fast.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "device": device_name(stages.device),
        },
    }
    return metrics, ranks


def _dataset(data: Interactions) -> dict[str, int]:
    counts = {"users": data.n_users, "items": data.n_items, "records": data.n_records}
    if data.target_items is not None:
        counts["target_items"] = data.n_targets
    return counts


def _epochs(history: History | None) -> dict[str, int] | None:
    if history is None:
        return None
    return {"trained": history.epochs, "best": history.best_epoch + 1}


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
    ), ("full",)


def _new_encoder(config: RunConfig, device: torch.device, cuda_graphs: bool) -> PDRec:
    return PDRec(
        config.encoder,
        config.pdrec,
        encoder_options=config.encoder_options,
        device=device,
        cuda_graphs=cuda_graphs,
    )


def check_before_training(
    config: RunConfig, split: Split, diffusion: DiffRec | None, encoders: Iterable[PDRec]
) -> None:
    """Find now what would otherwise be found after hours, in a later stage."""
    if diffusion is not None:
        if config.guide != DIFFUSION:
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
        check_trainable(split.train, model.new_encoder(split.train.n_items).max_length)


def claim(out: Path, kind: str, description: dict[str, Any], *, beside: str = "") -> None:
    """Mark ``out`` as that of one ``"run"`` or ``"search"``, or refuse if it is another's.

    Args:
        kind: what lies there, described in ``<kind>.json``.
        beside: name of a file that may be there before.
    """
    marker = out / f"{kind}.json"
    if marker.exists():
        try:
            found = as_of_now(json.loads(marker.read_text()))
        except ValueError as error:
            raise CheckpointError(f"{marker}: damaged ({error}); use another --out") from None
        if found != description:
            unlike = ", ".join(differences(found, description))
            raise CheckpointError(
                f"{out}: holds a {kind} with other {unlike}; use another directory or delete it"
            )
        return
    if out.exists() and (not out.is_dir() or any(file.name != beside for file in out.iterdir())):
        raise CheckpointError(
            f"{out}: exists and is no {kind} of pdrec-fast; use another directory"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(marker, description)


def as_of_now(description: Any) -> Any:
    """What an older version wrote of a ``config``, with the fields it lacked at their defaults.

    A field added later must therefore default to what runs did before.
    """
    return _with_defaults(description, {"config": RunConfig().describe()})


def _with_defaults(values: Any, defaults: Any) -> Any:
    if not (isinstance(values, dict) and isinstance(defaults, dict)):
        return values
    return values | {
        key: _with_defaults(values.get(key, default), default) for key, default in defaults.items()
    }


def _peak_rss_gib() -> float:
    """0.0 where the system does not tell, as on Windows."""
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 30 if sys.platform == "darwin" else 1 << 20)
