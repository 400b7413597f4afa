"""The examples run, at small sizes, and do what they show."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"


def example(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_own_loop(monkeypatch, capsys):
    results = example("own_loop", monkeypatch).main(n_users=200, epochs=4)
    assert "GRU with PDRec" in capsys.readouterr().out
    aucs = [of_model["full"]["test"]["auc"] for of_model in results.values()]
    assert len(set(aucs)) == 2
    assert min(aucs) > 0.52  # better than chance: its items, states and losses belong together


def test_rectools(monkeypatch, capsys):
    why = "pip install 'pdrec_fast[rectools]' (RecTools needs numpy < 2 before Python 3.13)"
    for needed in ("rectools", "pytorch_lightning"):
        pytest.importorskip(needed, reason=why)
    model, recommended = example("rectools_sasrec", monkeypatch).main(n_users=200, epochs=4)
    module = model.lightning_model
    assert "Hit rate at 10" in capsys.readouterr().out
    # The numbers of items in both libraries belong to the same raw ids.
    raw = model.data_preparator.get_known_item_ids()
    assert module.train_data.item_ids[module.ours[1:].numpy()].tolist() == raw.tolist()
    assert module.theirs[module.ours[1:]].tolist() == list(range(1, len(raw) + 1))
    assert module.trainer.callback_metrics["train_loss"] < 1.3
    per_user = recommended.groupby("user_id")["item_id"]
    assert (per_user.nunique() == 10).all()
    assert np.isin(recommended["item_id"], raw).all()


def test_mlflow(monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow")
    monkeypatch.chdir(tmp_path)
    parent = example("mlflow_run", monkeypatch).main(n_users=100)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("pdrec_fast")
    runs = client.search_runs([experiment.experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert by_name.keys() == {"generated data", "DiffRec", "sasrec+fusion"}
    assert 0 < by_name["generated data"].data.metrics["ndcg_at_10"] < 1
    for name, epochs in (("DiffRec", 8), ("sasrec+fusion", 6)):
        run = by_name[name]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.data.params["epochs"] == str(epochs)
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss")]
        assert steps == list(range(1, epochs + 1))


def test_wandb(monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    result = example("wandb_run", monkeypatch).main(tmp_path, n_users=100)
    found = {}
    for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb"):
        name, rows = wandb_run(path)
        found[name] = rows
    assert found.keys() == {"DiffRec", "sasrec+fusion"}
    rows = found["sasrec+fusion"]
    assert [row["_step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in rows] == result.model.history.losses
    assert [row["valid_ndcg@10"] for row in rows] == list(result.model.history.validations.values())


def wandb_run(path):
    """The name of an offline run and the rows of its history."""
    from wandb.proto.wandb_internal_pb2 import Record

    name, rows = None, []
    for data in leveldb_records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        name = record.run.display_name or name
        if record.HasField("history"):
            items = record.history.item
            rows.append({i.key or i.nested_key[0]: json.loads(i.value_json) for i in items})
    return name, rows


def leveldb_records(log, block=32768, header=7):
    """The records of LevelDB's log format, which wandb writes after a header of 7 bytes."""
    start, parts = header, []
    while start + header <= len(log):
        if block - start % block < header:  # the rest of a block is padding
            start += block - start % block
            continue
        length, kind = int.from_bytes(log[start + 4 : start + 6], "little"), log[start + 6]
        parts.append(log[start + header : start + header + length])
        start += header + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []
