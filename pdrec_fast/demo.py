"""The main job on generated data: the plain encoder against PDRec, and one user from close by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pdrec_fast.data import synthetic
from pdrec_fast.evaluation import format_results
from pdrec_fast.pipeline import RunConfig, RunResult, run
from pdrec_fast.presets import DEFAULT
from pdrec_fast.training import MODULES, Module

_EPOCHS = 20
_SHOWN = 12  # latest items of the history that are printed


def run_demo(
    *, seed: int = 0, out: Path | None = None, device: str = "auto", progress: bool = True
) -> None:
    """Train TI-DiffRec, plain SASRec and PDRec (SASRec) on ``synthetic()`` and print what they do.

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
    guided_config = _config(seed, MODULES)
    where: dict[str, Any] = {"device": device, "progress": progress}
    guided = run(data, guided_config, out=out and out / "pdrec", **where)
    plain = run(data, _config(seed, ()), out=out and out / "sasrec", **where)
    results = {
        "popularity": guided.metrics["popularity"],
        "TI-DiffRec": guided.metrics["diffusion"],
        "SASRec": plain.metrics["protocols"],
        "PDRec (SASRec)": guided.metrics["protocols"],
    }
    tested = {
        name: {protocol: {"test": splits["test"]} for protocol, splits in result.items()}
        for name, result in results.items()
    }
    print()
    print(format_results(tested))
    print()
    print(_one_user(guided, guided_config))
    seconds = {
        "diffusion": guided.metrics["seconds"]["diffusion"],
        "preferences": guided.metrics["seconds"]["preferences"],
        "SASRec": plain.metrics["seconds"]["encoder"],
        "PDRec": guided.metrics["seconds"]["encoder"],
    }
    print("\nseconds: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))


def _config(seed: int, modules: tuple[Module, ...]) -> RunConfig:
    config = RunConfig.from_preset(DEFAULT, modules=modules, seed=seed)
    return replace(config, pdrec=replace(config.pdrec, epochs=_EPOCHS, eval_every=2))


def _one_user(result: RunResult, config: RunConfig) -> str:
    """A user's latest behaviours with their HBR weights, and what the model recommends next."""
    assert result.model is not None
    assert result.preferences is not None
    train, data = result.split.train, result.split.data
    user = int(np.argmax(np.diff(train.indptr) >= _SHOWN))
    records = slice(train.indptr[user] + 1, train.indptr[user + 1])
    items = train.items[records]
    weights = result.preferences.hbr_weights(train, config.pdrec)[records]
    assert train.timestamps is not None
    days = (train.timestamps[records][-1] - train.timestamps[records]) / 86_400
    raw = data.user_ids[user]
    lines = [f"User {raw}: latest training behaviours and what HBR makes of them"]
    lines.append(f"{'days before the last':>20}  {'item':>6}  {'weight':>6}")
    latest = slice(-_SHOWN, None)
    for day, item, weight in zip(days[latest], items[latest], weights[latest], strict=True):
        lines.append(f"{day:>20.1f}  {data.item_ids[item]!s:>6}  {weight:>6.2f}")
    recommended, logits = result.model.recommend([raw], 5)
    shown = ", ".join(
        f"{item} ({logit:.2f})" for item, logit in zip(recommended[0], logits[0], strict=True)
    )
    lines.append(f"Recommended next (logit): {shown}")
    return "\n".join(lines)
