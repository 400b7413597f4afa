"""The README's commands and Python run as they are printed."""

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from tests.test_pipeline import SHORT, command

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with the files that the README speaks of."""
    for seed, name in enumerate(("clicks.csv", "sales.csv")):
        data = pf.synthetic(n_users=60, n_items=250, seed=seed)
        with (tmp_path / name).open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["user_id", "item_id", "timestamp"])
            records = zip(data.record_users, data.items, data.timestamps, strict=True)
            writer.writerows((f"u{user}", f"i{item}", when) for user, item, when in records)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_blocks_run_one_after_the_other(folder, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 6
    names = {}
    for block in blocks:
        exec(block, names)
    assert "protocol: paper" in capsys.readouterr().out
    assert names["items"].shape == (2, 5)
    assert (folder / "clicks-model" / "manifest.json").exists()
    assert names["model"].name == "LastItems+hbr+dpa+nns"
    check_loss(names["pdrec_loss"], names["split"].train)


def check_loss(loss_of, train):
    """The README's loss on a batch: every state and item has its share of it."""
    users = np.flatnonzero(np.diff(train.indptr) >= 2)[:5]
    items = torch.from_numpy(train.items[train.indptr[users + 1] - 1]).long()
    states, last, table = (torch.randn(n, 8, requires_grad=True) for n in (5, 5, train.n_items))
    loss = loss_of(torch.from_numpy(users), items, states, last, table, 0, 0)
    loss.backward()
    assert loss > 0
    for part in (states.grad, last.grad, table.grad[items]):
        assert part.norm(dim=1).min() > 0


def test_commands_run_one_after_the_other(folder):
    lines = re.findall(r"^    \.venv/bin/pdrec-fast (.*)$", README, flags=re.MULTILINE)
    tiny = {
        "run": [*SHORT, "--quiet", "--threads", 1],
        "tune": ["--trials", 2, "--epochs", 1, "--quiet"],
        "study": [*SHORT, "--seeds", 1, "--quiet"],
    }
    names = [line.split()[0] for line in lines]
    assert sorted({*names}) == [
        "evaluate",
        "presets",
        "recommend",
        "report",
        "run",
        "study",
        "tune",
    ]
    for name, line in zip(names, lines, strict=True):
        result = command(*shlex.split(line), *tiny.get(name, []))
        assert result.returncode == 0, result.stderr
    assert (folder / "runs" / "both" / "metrics.json").exists()
    assert (folder / "clicks-tuned.json").exists()
    assert (folder / "report.html").exists()


def test_options_of_the_table_exist(folder):
    options = re.findall(r"^\| `(--.*?)` \|", README, flags=re.MULTILINE)
    assert len(options) >= 8
    # The data are looked for once all options have been understood.
    for option in options:
        result = command("run", "--data", "nowhere.csv", "--out", "out", *shlex.split(option))
        assert result.stderr == "error: nowhere.csv: no such file\n"
