"""Trainings in MLflow: a parent run, and in it one for every model, with its settings and curves.

``python examples/mlflow_run.py`` writes to the file ``mlflow.db``, without a server, in under a
minute; ``mlflow ui --backend-store-uri sqlite:///mlflow.db`` shows it. ``pip install mlflow``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlflow

import pdrec_fast as pf

SMALL = {"diffusion.epochs": 8, "diffusion.hidden": 32, "pdrec.epochs": 6, "encoder.width": 32}


class MLflowLogger(pf.Callback):
    """Writes every training to a run of its own, nested in the active one where there is one."""

    def on_fit_start(self, name: str, settings: Mapping[str, Any]) -> None:
        mlflow.start_run(run_name=name, nested=True)
        mlflow.log_params(settings["config"])
        self.written = 0

    def on_epoch_end(self, name: str, history: pf.History) -> None:
        # After a checkpoint the first call has several epochs.
        for epoch in range(self.written, history.epochs):
            values = {"loss": history.losses[epoch]}
            if str(epoch) in history.validations:
                values["valid_ndcg_at_10"] = history.validations[str(epoch)]
            mlflow.log_metrics(values, step=epoch + 1)
        self.written = history.epochs

    def on_fit_end(self, name: str, history: pf.History) -> None:
        mlflow.end_run()


def main(tracking_uri: str = "sqlite:///mlflow.db", n_users: int = 800) -> str:
    """Train on generated data; returns the id of the parent run."""
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("pdrec_fast")
    config = pf.with_settings(pf.RunConfig.from_preset("default"), SMALL)
    with mlflow.start_run(run_name="generated data") as parent:
        data = pf.synthetic(n_users=n_users, n_items=900)
        result = pf.run(data, config, progress=False, callbacks=[MLflowLogger()])
        test = result.metrics["protocols"]["full"]["test"]
        mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in test.items()})
    return parent.info.run_id


if __name__ == "__main__":
    print("parent run", main())
