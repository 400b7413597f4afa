"""What a run tests and writes down: the figures of ``metrics.json``."""

from __future__ import annotations

import platform
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import torch

import pdrec_fast
from pdrec_fast.baselines import ItemKNN
from pdrec_fast.data import Interactions, Split
from pdrec_fast.devices import device_name
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.evaluation import (
    PROTOCOLS,
    AllRanks,
    Evaluator,
    Popularity,
    summarize_all,
    summarize_sets,
)
from pdrec_fast.fitting.history import History
from pdrec_fast.pipeline.configuration import RunConfig
from pdrec_fast.pipeline.stages import Models, Stages
from pdrec_fast.training import PDRec


def figures_of(
    config: RunConfig,
    split: Split,
    protocols: tuple[str, ...],
    stages: Stages,
    trained: Models,
    untested: Collection[str],
) -> tuple[dict[str, Any], AllRanks]:
    """The metrics, and the ranks of the recommender, which is tested in any case."""
    models: dict[str, Any] = {
        "diffusion": trained.diffusion,
        "guide": trained.guide,
        "encoder": trained.model,
    }
    started = time.monotonic()
    evaluator = Evaluator(split, seed=config.evaluation_seed, mesh=stages.mesh)
    recommender = models["encoder"] or models["diffusion"]
    assert recommender is not None
    ranks = evaluator.all_ranks(recommender, protocols)

    def tested(name: str) -> AllRanks | None:
        model = models[name]
        if model is recommender:
            return ranks
        if model is None or name in untested:
            return None
        return evaluator.all_ranks(model, protocols)

    all_ranks = {
        "protocols": ranks,
        "popularity": evaluator.all_ranks(Popularity(split.train), protocols),
        "item_knn": evaluator.all_ranks(ItemKNN(config.item_knn).fit(split), protocols),
        "diffusion": tested("diffusion"),
        "guide": tested("guide"),
        "alone": None,  # the encoder without what a fusion adds
    }
    if trained.model is not None and trained.model.fusion is not None:
        all_ranks["alone"] = evaluator.all_ranks(trained.model.without_fusion(), protocols)
    stages.record("evaluation", time.monotonic() - started)
    histories = {name: getattr(fitted, "history", None) for name, fitted in models.items()}
    curves = {name: asdict(history) if history else None for name, history in histories.items()}
    peak = stages.peak_rss_gib
    metrics = {
        "dataset": _dataset(split.data),
        "config": config.describe(),
        **{name: summarize_all(found) if found else None for name, found in all_ranks.items()},
        "sets": _sets(split, all_ranks),
        "protocol_notes": {name: PROTOCOLS[name] for name in protocols},
        "fusion": _shares(models["encoder"]),
        "epochs": {name: _epochs(history) for name, history in histories.items()},
        "history": curves,
        "final": None,
        "split": str(split.report).splitlines(),
        "seconds": {key: round(value, 4) for key, value in stages.seconds.items()},
        "peak_rss_gib": None if peak is None else round(peak, 3),
        "environment": {
            "pdrec_fast": pdrec_fast.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "device": device_name(stages.device),
            "processes": stages.mesh.all.size,
        },
    }
    return metrics, ranks


def final_of(data: Interactions, stages: Stages, models: Models) -> dict[str, Any]:
    """What ``metrics.json`` says of the final models, which nothing is left to test on."""
    fitted = {"diffusion": models.diffusion, "guide": models.guide, "encoder": models.model}
    histories = {name: getattr(model, "history", None) for name, model in fitted.items()}
    return {
        "note": (
            "the saved models were trained on all records, for the epochs and with the shares that "
            "the selection run chose; every figure of this file is of the selection run's models"
        ),
        "records": data.n_records,
        "epochs": {
            name: history.epochs if history else None for name, history in histories.items()
        },
        "seconds": {
            key: round(value, 4) for key, value in stages.seconds.items() if key != "evaluation"
        },
    }


def _sets(split: Split, all_ranks: Mapping[str, AllRanks | None]) -> dict[str, Any] | None:
    """What the models reach of users' held-out sets, where the split has such."""
    if not split.sets:
        return None
    return {
        name: {on: summarize_sets(cases, getattr(split, on).users) for on, cases in of.items()}
        for name, found in all_ranks.items()
        if found is not None
        for of in (found["full"],)
    }


def _dataset(data: Interactions) -> dict[str, int]:
    counts = {"users": data.n_users, "items": data.n_items, "records": data.n_records}
    if data.target_items is not None:
        counts["target_items"] = data.n_targets
    return counts


def _shares(model: DiffRec | PDRec | None) -> dict[str, dict[str, Any]] | None:
    if not isinstance(model, PDRec) or model.fusion is None:
        return None
    return {name: asdict(share) for name, share in model.fusion.shares.items()}


def _epochs(history: History | None) -> dict[str, int] | None:
    if history is None:
        return None
    return {"trained": history.epochs, "best": history.best_epoch + 1}
