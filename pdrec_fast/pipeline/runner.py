"""Runs the stages one after the other and writes what they leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pdrec_fast.data import Interactions, Split
from pdrec_fast.devices import resolve_device
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.evaluation import AllRanks
from pdrec_fast.files import write_json
from pdrec_fast.fitting.callbacks import Callback, Prefixed
from pdrec_fast.pipeline.configuration import RunConfig
from pdrec_fast.pipeline.former import Former, without_seen
from pdrec_fast.pipeline.given import SPLIT, fingerprint_of, save_split
from pdrec_fast.pipeline.guides import DIFFUSION, GUIDES, new_encoder
from pdrec_fast.pipeline.metrics import figures_of, final_of
from pdrec_fast.pipeline.run_directory import LOG, SELECTION, reserved_directory
from pdrec_fast.pipeline.stages import (
    Models,
    Stages,
    check_before_training,
    with_given_preferences,
    with_possible_protocols,
)
from pdrec_fast.preferences import Preferences
from pdrec_fast.ranks import ALONE, Mesh
from pdrec_fast.training import PDRec


@dataclass
class RunResult:
    """What a run leaves: the metrics (as in ``metrics.json``), the ranks behind them, models.

    With ``RunConfig.final`` the models are the final ones, which nothing can test, and
    ``selected`` has those that the metrics and ranks are of.
    """

    metrics: dict[str, Any]
    ranks: AllRanks  # of the encoder, or of the diffusion model where that is the recommender
    split: Split
    diffusion: DiffRec | None
    preferences: Preferences | None
    model: PDRec | None
    guide: Any = None  # the scorer that guides the model, where it is not the diffusion model
    selected: Models | None = None


def run(
    data: Interactions | Split,
    config: RunConfig | None = None,
    *,
    out: str | Path | None = None,
    diffusion: DiffRec | None = None,
    preferences: Preferences | None = None,
    warm_start: str | Path | None = None,
    device: str | torch.device = "auto",
    cuda_graphs: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    mesh: Mesh = ALONE,
) -> RunResult:
    """Train the diffusion model or another guide, infer preferences, train the encoder, test all.

    Args:
        data: split as ``config.split`` says; or a split, such as ``given_split`` makes, in whose
            place ``config.split`` does not count. Of held-out sets the metrics have ``sets``.
        out: directory for models, checkpoints and ``metrics.json``. A run killed and started again
            with the same data and settings continues, to the same result; what is finished is not
            done again, and ``pdrec.epochs`` may be more than before (see ``docs/updating.md``).
            None keeps everything in memory.
        diffusion: a model already fitted on this data's training part, instead of a new one;
            its settings replace ``config.diffusion``. As a guide it is not tested here: the metrics
            have None for it.
        preferences: of this data's training part, to train the encoder with instead of inferring
            them; no guide is trained for them. Their ``top_m``, ``omega_m`` and ``n_draws``
            replace those of ``config``. ``Preferences.open`` reads large ones row by row.
        warm_start: directory of a finished run whose models are the start of these, see
            ``PDRec.fit``; ``update`` also says for how many epochs. Held-out records that they were
            trained on are not tested, and the split's report counts them.
        device: where the models are trained and score: ``"cpu"``, ``"cuda"``, ...; ``"auto"`` is a
            GPU where there is one. A run can be continued on another.
        cuda_graphs: see ``PDRec``.
        progress: show bars. Without them nothing is printed; the log (``logging``,
            ``"pdrec_fast"``) is yours to show.
        callbacks: told of every training; with ``config.final`` those of the final models have
            names that begin with ``"final "``.
        mesh: the processes that run it together, each of which makes this call with the same
            arguments and has the result; the first one writes ``out``, which all must see. A run
            continues on any mesh (``docs/ranks.md``).

    Raises:
        CheckpointError: ``out`` holds a run of other data or settings, or another process is at
            work there; or ``warm_start`` holds none.
        DataError: nobody has enough interactions to learn from, or nothing is left to recommend; or
            ``diffusion`` was fitted or ``preferences`` were inferred on other interactions, or the
            models of ``warm_start`` were trained on more than a tenth of what is held out here.
        ValueError: ``diffusion`` or ``preferences`` are not needed, or the latter are not enough
            or given with ``config.final``; or there is no such device.
    """
    device = mesh.device if mesh.all.size > 1 else resolve_device(device)
    config = config or RunConfig()
    out = None if out is None else Path(out)
    split = data if isinstance(data, Split) else config.split.apply(data)
    config, protocols = with_possible_protocols(config, split)
    if diffusion is not None:
        config = replace(config, diffusion=diffusion.config)
    if preferences is not None:
        config = with_given_preferences(config, split.train, preferences, diffusion)
    new = _new_models(config, device, cuda_graphs)
    encoders = [each for each in (new.model, new.guide) if isinstance(each, PDRec)]
    check_before_training(config, split, diffusion, encoders)
    former = None if warm_start is None else Former.load(warm_start, device)
    description = {
        "config": config.describe(),
        "data": fingerprint_of(data) if isinstance(data, Split) else data.fingerprint(),
        "diffusion": diffusion.fingerprint() if diffusion else None,
    }
    if preferences is not None:
        description["preferences"] = preferences.fingerprint()
    if former is not None:
        former.check_fits(config, new, split)
        seen = former.seen_by(split)
        split = without_seen(split, seen)
        description["warm start"] = former.describe() | {"untested": seen}
    mesh.check_alike(description)
    with _reserved(out, description, data, mesh):
        tested = out / SELECTION if out is not None and config.final else out
        start = None if former is None else former.selected
        stages = Stages(tested, device, progress, callbacks, start, mesh)
        given = new._replace(diffusion=diffusion, preferences=preferences)
        models = _train(stages, config, split, given)
        untested = () if diffusion is None else ("diffusion",)
        metrics, ranks = figures_of(config, split, protocols, stages, models, untested)
        selected = None
        if config.final:
            told = [Prefixed(each, "final ") for each in callbacks]
            start = None if former is None else former.final
            stages = Stages(out, device, progress, told, start, mesh)
            selected, new = models, _new_models(config, device, cuda_graphs)
            models = _train(stages, config, split.data, new, selected)
            metrics["final"] = final_of(split.data, stages, models)
        if out is not None:
            mesh.once(lambda: write_json(out / "metrics.json", metrics))
        kept = models.diffusion, models.preferences, models.model, models.guide
        return RunResult(metrics, ranks, split, *kept, selected)


@contextmanager
def _reserved(
    out: Path | None, description: dict[str, Any], data: Interactions | Split, mesh: Mesh
) -> Iterator[None]:
    """The run's directory is the first process's own within it."""
    with ExitStack() as held:

        def reserve() -> None:
            assert out is not None
            held.enter_context(reserved_directory(out, "run", description, beside=LOG))
            if isinstance(data, Split):
                save_split(data, out / SPLIT)

        if out is not None:
            mesh.once(reserve)
        yield


def _new_models(config: RunConfig, device: torch.device, cuda_graphs: bool) -> Models:
    """The encoder that the run trains and its guide, not yet fitted."""
    model = guide = None
    if config.encoder != DIFFUSION:
        model = new_encoder(config, device, cuda_graphs)
    if not config.guided_by_diffusion:
        guide = GUIDES[config.guide].new(config, device, cuda_graphs)
    return Models(guide=guide, model=model)


def _train(
    stages: Stages,
    config: RunConfig,
    data: Split | Interactions,
    new: Models,
    selected: Models | None = None,
) -> Models:
    """Everything that the run needs, trained or taken from where it lies.

    Args:
        data: a split, to select epochs and shares on; or all records, to train on as ``selected``
            was.
        new: an encoder and a guide to train, and a diffusion model and preferences where they are
            given.
    """
    selected = selected or Models()
    train = data.train if isinstance(data, Split) else data
    diffusion, guide, preferences, model = new
    if config.needs_diffusion and (preferences is None or config.fuses_guide):
        diffusion = stages.diffusion(config, data, diffusion, selected.diffusion)
    if guide is not None:
        guide = stages.guide(GUIDES[config.guide], guide, data, selected.guide)
    scorer = diffusion if guide is None else guide
    if config.needs_preferences and preferences is None:
        assert scorer is not None
        preferences = stages.preferences(config, train, scorer)
    if model is not None:
        guides = stages.guides(config, train, scorer)
        model = stages.encoder(model, data, preferences, guides, selected.model)
    return Models(diffusion, guide, preferences, model)
