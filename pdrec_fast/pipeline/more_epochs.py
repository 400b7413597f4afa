"""More epochs for a run: its last training goes on from the checkpoint, as if they had been set
from the start; bit for bit on a CPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pdrec_fast.diffusion import DiffusionConfig
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.errors import CheckpointError
from pdrec_fast.files import differences, write_json
from pdrec_fast.fitting.bundle import bundle_exists, read_bundle, write_bundle
from pdrec_fast.fitting.history import History
from pdrec_fast.fitting.loop import KIND
from pdrec_fast.pipeline.guides import DIFFUSION
from pdrec_fast.training import PDRecConfig

_VERDICTS = ("below", "level")  # remarks on a training that has ended


def may_go_on(config: DiffusionConfig | PDRecConfig, history: History) -> bool:
    """Whether more epochs would have made something else of a training, and its end is a place that
    the longer one passes: then its checkpoint is worth keeping."""
    ran_out = history.epochs == config.epochs
    planned = isinstance(config, PDRecConfig) and config.lr_schedule == "cosine"
    return ran_out and not planned and config.epochs % config.eval_every == 0


def allow_more_epochs(out: Path, found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Make the run in ``out`` one of ``wanted``, where that is ``found`` with more epochs of the
    encoder (of the diffusion model where that is alone), and say so; otherwise do nothing.

    Raises:
        CheckpointError: such a run cannot be continued, and why.
    """
    alone = wanted["config"]["encoder"] == DIFFUSION
    group, name = ("diffusion", "diffusion") if alone else ("pdrec", "model")
    before, after = (each["config"][group] for each in (found, wanted))
    if not before.get("epochs", 0) < after["epochs"]:
        return False
    one = wanted | {"config": wanted["config"] | {group: after | {"epochs": before["epochs"]}}}
    if differences(found, one):
        return False
    tested = out / "selection" if wanted["config"]["final"] else out
    checkpoint, model = tested / f"{name}.checkpoint", tested / name
    begun = bundle_exists(checkpoint) or bundle_exists(model)
    reason = _obstacle(wanted["config"], before, checkpoint) if begun else None
    if reason is not None:
        raise CheckpointError(
            f"{out}: {group}.epochs cannot grow from {before['epochs']} to {after['epochs']} here: "
            f"{reason}; use another directory, or train on with pdrec-fast update"
        )
    # In this order, so that the same command goes on where it was killed in between.
    (out / "metrics.json").unlink(missing_ok=True)
    for stale in {model, out / name, out / f"{name}.checkpoint"} - {checkpoint}:
        shutil.rmtree(stale, ignore_errors=True)
    if begun:
        _extend(checkpoint, after["epochs"])
    write_json(out / "run.json", wanted)
    return True


def _obstacle(config: dict[str, Any], before: dict[str, Any], checkpoint: Path) -> str | None:
    """Why a training that has begun cannot take more epochs."""
    if before.get("lr_schedule") == "cosine":
        return "the cosine schedule has planned its learning rate over all epochs"
    if config["guide"] in ENCODERS:
        return "they are the guide's epochs too, which the encoder has learned from"
    if not bundle_exists(checkpoint):
        return "no checkpoint was kept, as its training ended early (pdrec.patience) or was deleted"
    history = read_bundle(checkpoint, KIND)[0]["history"]
    if history["finished"] and len(history["losses"]) % before["eval_every"]:
        return f"its last epoch is no multiple of eval_every={before['eval_every']}"
    return None


def _extend(checkpoint: Path, epochs: int) -> None:
    """Let the training of ``checkpoint`` have so many epochs."""
    meta, files = read_bundle(checkpoint, KIND)
    meta["identity"]["config"]["epochs"] = epochs
    history = meta["history"]
    history["finished"] = False
    for kind in _VERDICTS:
        history["remarks"].pop(kind, None)
    write_bundle(checkpoint, KIND, meta, files)
