"""The main job on generated data: the plain encoder against the guided one, and one user from close
by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pdrec_fast.data import synthetic
from pdrec_fast.evaluation import format_results
from pdrec_fast.pipeline import RunConfig, RunResult, run
from pdrec_fast.presets import DEFAULT
from pdrec_fast.training import Module

_EPOCHS = 20
_SHOWN = 8  # latest items of the history that are printed


def run_demo(
    *, seed: int = 0, out: Path | None = None, device: str = "auto", progress: bool = True
) -> None:
    """Train a plain SASRec, and the same one guided by the preset's diffusion model and linear
    denoiser, on ``synthetic()`` and print what they do.

    Args:
        out: keep the two runs under this directory.
        device: see ``run``.
    """
    data = synthetic(seed=seed)
    summary = data.summary()
    print(
        f"Generated {summary['records']:,} interactions of {summary['users']:,} users with "
        f"{summary['items']:,} items."
    )
    where: dict[str, Any] = {"device": device, "progress": progress}
    guided = run(data, _config(seed, None), out=out and out / "guided", **where)
    plain = run(data, _config(seed, ()), out=out and out / "plain", **where)
    results = {
        "popularity": guided.metrics["popularity"],
        "diffusion": guided.metrics["diffusion"],
        "SASRec": plain.metrics["protocols"],
        "SASRec, guided": guided.metrics["protocols"],
    }
    tested = {
        name: {protocol: {"test": splits["test"]} for protocol, splits in result.items()}
        for name, result in results.items()
    }
    print()
    print(format_results(tested))
    print()
    print(_one_user(plain, guided))
    seconds = guided.metrics["seconds"]
    print(
        f"\nseconds: diffusion {seconds['diffusion']:.1f}, SASRec {seconds['encoder']:.1f}, "
        f"fusion {seconds['fusion']:.1f}; plain SASRec {plain.metrics['seconds']['encoder']:.1f}"
    )


def _config(seed: int, modules: tuple[Module, ...] | None) -> RunConfig:
    config = RunConfig.from_preset(DEFAULT, modules=modules, seed=seed)
    return replace(config, pdrec=replace(config.pdrec, epochs=_EPOCHS, eval_every=2))


def _one_user(plain: RunResult, guided: RunResult) -> str:
    """A user's latest behaviours, and what the models recommend next."""
    assert plain.model is not None
    assert guided.model is not None
    data = guided.split.data
    user = int(np.argmax(np.diff(data.indptr) >= _SHOWN))
    records = slice(data.indptr[user], data.indptr[user + 1])
    items = [str(data.item_ids[item]) for item in data.items[records][-_SHOWN:]]
    raw = data.user_ids[user]
    lines = [f"User {raw}: the latest behaviours were {', '.join(items)}"]
    for name, model in (("SASRec", plain.model), ("SASRec, guided", guided.model)):
        recommended, logits = model.recommend([raw], 5)
        shown = ", ".join(
            f"{item} ({logit:.2f})" for item, logit in zip(recommended[0], logits[0], strict=True)
        )
        lines.append(f"{name:>15} recommends next (logit): {shown}")
    return "\n".join(lines)
