"""The tutorials run from top to bottom as printed, on less data and with short trainings."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from tests.test_pipeline import command

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
STEP = re.compile(r"^```python\n(.*?)^```|^    pdrec-fast (.*?)$", flags=re.DOTALL | re.MULTILINE)
# Slow, and followed elsewhere: docs/serving.md by tests/export, docs/studies.md by test_pages.py.
ELSEWHERE = ("export", "study", "collect")
SHORT = {
    "diffusion.epochs": 2,
    "diffusion.hidden": (16,),
    "pdrec.epochs": 2,
    "n_draws": 16,
    "top_m": 5,
}
NEEDS = {"cluster": ("duckdb",)}
MADE = {
    "first-model": ("first-model/manifest.json",),
    "own-data": tuple(f"runs/{run}/metrics.json" for run in ("clicks", "by-time", "gru", "plain")),
    "own-encoder": ("recurrent/manifest.json",),
    "own-loop": (),
    "two-domains": ("runs/both/metrics.json", "runs/films/metrics.json"),
    "refresh-and-serve": ("runs/tuesday/metrics.json", "all.csv"),
    "cluster": ("clicks-store/store.json", "parts/job.json", "all.csv"),
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An empty working directory, little data, and a preset of that name that learns little."""
    synthetic = pf.synthetic

    def less(n_users=0, n_items=0, seed=0):
        return synthetic(n_users=80, n_items=150, seed=seed)

    monkeypatch.setattr(pf, "synthetic", less)
    monkeypatch.setattr("pdrec_fast.demo.synthetic", less)
    preset = pf.with_settings(pf.PRESETS["default"], SHORT)
    monkeypatch.setitem(pf.PRESETS, "default", preset)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_tutorial_is_here():
    assert {page.stem for page in FOLDER.glob("*.md")} == MADE.keys()


@pytest.mark.parametrize("tutorial", MADE)
def test_a_tutorial(tutorial, small, capsys):
    for needed in NEEDS.get(tutorial, ()):
        pytest.importorskip(needed)
    names = {"__name__": "tutorial"}
    steps = STEP.findall((FOLDER / f"{tutorial}.md").read_text())
    assert any(code for code, _ in steps)
    for code, line in steps:
        if code:
            exec(code, names)
        elif not line.startswith(ELSEWHERE):
            result = command(*shlex.split(line))
            assert result.returncode == 0, f"{line}\n{result.stderr}"
    for name in MADE[tutorial]:
        assert (small / name).is_file(), name
    CHECKS[tutorial](names, capsys.readouterr().out)


def check_first_model(names, shown):
    assert all(len(row) == 5 for row in names["items"])
    assert "guided SASRec" in shown


def check_own_data(names, shown):
    found = json.loads(Path("runs/clicks/metrics.json").read_text())
    assert found["protocols"] == names["result"].metrics["protocols"]
    assert len(names["items"]) == 2
    assert re.search(r"^\d+\.\d% of the test targets", shown, re.MULTILINE)


def check_own_encoder(names, shown):
    assert names["model"].fusion.guides.keys() == {"guide", "popularity"}
    assert "mine" in shown
    assert names["in_training"].name == "sasrec+hbr+nns"


def check_own_loop(names, shown):
    losses = [float(loss) for loss in re.findall(r"^epoch \d: (.*)$", shown, re.MULTILINE)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert names["fusion"].shares.keys() == {"guide"}
    check_loss(names["pdrec_loss"], names["train"])


def check_loss(loss_of, train):
    """The page's loss on a batch: every state and item has its share of it."""
    users = np.flatnonzero(np.diff(train.indptr) >= 2)[:5]
    items = torch.from_numpy(train.items[train.indptr[users + 1] - 1]).long()
    states, last, table = (torch.randn(n, 8, requires_grad=True) for n in (5, 5, train.n_items))
    loss = loss_of(torch.from_numpy(users), items, states, last, table, 0, 0)
    loss.backward()
    assert loss > 0
    for part in (states.grad, last.grad, table.grad[items]):
        assert part.norm(dim=1).min() > 0


def check_two_domains(names, shown):
    assert names["both"].n_targets < names["both"].n_items


def check_refresh_and_serve(names, shown):
    assert len(names["items"][0]) == 3
    assert len(names["answer"](["no such item"])[0][0]) == 3  # popular items


def check_cluster(names, shown):
    whole = pf.Interactions.from_store("clicks-store")
    assert 0 < names["part"].n_users < whole.n_users


CHECKS = {name: globals()[f"check_{name.replace('-', '_')}"] for name in MADE}
