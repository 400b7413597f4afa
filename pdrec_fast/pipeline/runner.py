"""Runs the stages one after the other and writes what they leave."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pdrec_fast.data import Interactions, Split
from pdrec_fast.devices import resolve_device
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.evaluation import AllRanks
from pdrec_fast.files import write_json
from pdrec_fast.pipeline.configuration import RunConfig
from pdrec_fast.pipeline.given import SPLIT, fingerprint_of, save_split
from pdrec_fast.pipeline.guides import DIFFUSION, GUIDES, new_encoder
from pdrec_fast.pipeline.metrics import figures_of
from pdrec_fast.pipeline.run_directory import LOG, reserve_directory
from pdrec_fast.pipeline.stages import (
    Stages,
    check_before_training,
    with_possible_protocols,
)
from pdrec_fast.preferences import Preferences
from pdrec_fast.training import PDRec


@dataclass
class RunResult:
    """What a run leaves: the metrics (as in ``metrics.json``), the ranks behind them, models."""

    metrics: dict[str, Any]
    ranks: AllRanks  # of the encoder, or of the diffusion model where that is the recommender
    split: Split
    diffusion: DiffRec | None
    preferences: Preferences | None
    model: PDRec | None
    guide: Any = None  # the scorer that guides the model, where it is not the diffusion model


def run(
    data: Interactions | Split,
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
        data: split as ``config.split`` says; or a split, such as ``given_split`` makes, in whose
            place ``config.split`` does not count. Of held-out sets the metrics have ``sets``.
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
    split = data if isinstance(data, Split) else config.split.apply(data)
    config, protocols = with_possible_protocols(config, split)
    if diffusion is not None:
        config = replace(config, diffusion=diffusion.config)
    model = guide = None
    if config.encoder != DIFFUSION:
        model = new_encoder(config, device, cuda_graphs)
    if not config.guided_by_diffusion:
        guide = GUIDES[config.guide].new(config, device, cuda_graphs)
    check_before_training(
        config, split, diffusion, [m for m in (model, guide) if isinstance(m, PDRec)]
    )
    description = {
        "config": config.describe(),
        "data": fingerprint_of(data) if isinstance(data, Split) else data.fingerprint(),
        "diffusion": diffusion.fingerprint() if diffusion else None,
    }
    if out is not None:
        reserve_directory(out, "run", description, beside=LOG)
        if isinstance(data, Split):
            save_split(data, out / SPLIT)
    stages = Stages(out, device, progress)
    untested = () if diffusion is None else ("diffusion",)
    trained = _train(stages, config, split, diffusion, guide, model)
    diffusion, guide, preferences, model = trained
    models = {"diffusion": diffusion, "guide": guide, "encoder": model}
    metrics, ranks = figures_of(config, split, protocols, stages, models, untested)
    if out is not None:
        write_json(out / "metrics.json", metrics)
    return RunResult(metrics, ranks, split, diffusion, preferences, model, guide)


def _train(
    stages: Stages,
    config: RunConfig,
    split: Split,
    diffusion: DiffRec | None,
    guide: Any,
    model: PDRec | None,
) -> tuple[DiffRec | None, Any, Preferences | None, PDRec | None]:
    """Everything that the run needs, trained or taken from where it lies."""
    preferences = None
    diffusion = stages.diffusion(config, split, diffusion) if config.needs_diffusion else None
    if guide is not None:
        guide = stages.guide(GUIDES[config.guide], guide, split)
    scorer = diffusion if guide is None else guide
    if config.needs_preferences:
        assert scorer is not None
        preferences = stages.preferences(config, split, scorer)
    if model is not None:
        guides = stages.guides(config, split, scorer)
        model = stages.encoder(model, split, preferences, guides)
    return diffusion, guide, preferences, model
