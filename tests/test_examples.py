"""The examples run, at small sizes, and do what they show."""

import importlib.util
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
