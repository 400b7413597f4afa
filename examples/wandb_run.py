"""Trainings in Weights & Biases: one run for every model, with its settings and curves, in a group.

``python examples/wandb_run.py`` needs no account: in under a minute it writes to the folder
``wandb``, and ``wandb sync`` sends that later; with ``mode="online"`` it is sent at once.
``pip install wandb``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

import pdrec_fast as pf

SMALL = {"diffusion.epochs": 8, "diffusion.hidden": 32, "pdrec.epochs": 6, "encoder.width": 32}


class WandbLogger(pf.Callback):
    """Writes every training to a run of its own.

    Args:
        options: of ``wandb.init``, such as ``project``, ``group``, ``dir`` and ``mode``.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def on_fit_start(self, name: str, settings: Mapping[str, Any]) -> None:
        config = dict(settings["config"])
        self.run = wandb.init(name=name, config=config, reinit="finish_previous", **self.options)
        self.written = 0

    def on_epoch_end(self, name: str, history: pf.History) -> None:
        # After a checkpoint the first call has several epochs.
        for epoch in range(self.written, history.epochs):
            values = {"loss": history.losses[epoch]}
            if str(epoch) in history.validations:
                values["valid_ndcg@10"] = history.validations[str(epoch)]
            self.run.log(values, step=epoch + 1)
        self.written = history.epochs

    def on_fit_end(self, name: str, history: pf.History) -> None:
        self.run.summary["best_epoch"] = history.best_epoch + 1
        self.run.finish()


def main(folder: str | Path = ".", n_users: int = 800, mode: str = "offline") -> pf.RunResult:
    """Train on generated data; the runs lie in ``folder``/wandb."""
    logger = WandbLogger(project="pdrec_fast", group="generated data", dir=str(folder), mode=mode)
    config = pf.with_settings(pf.RunConfig.from_preset("default"), SMALL)
    data = pf.synthetic(n_users=n_users, n_items=900)
    return pf.run(data, config, progress=False, callbacks=[logger])


if __name__ == "__main__":
    print(main().metrics["protocols"]["full"]["test"])
