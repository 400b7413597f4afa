"""What docs/updating.md and docs/callbacks.md show works as it is printed."""

import csv
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

import pdrec_fast as pf
from tests.pipeline.conftest import FAST, fast_config
from tests.test_pipeline import command

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def folder(old_data, data, write_csv, tmp_path, monkeypatch):
    write_csv(old_data).rename(tmp_path / "clicks.csv")
    write_csv(data).rename(tmp_path / "clicks-tuesday.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(page):
    return re.findall(r"^    pdrec-fast (.*)$", (DOCS / page).read_text(), flags=re.MULTILINE)


def follow(line):
    """One command of a page, at the size of a test."""
    name, *options = shlex.split(line)
    if importlib.util.find_spec("tensorboard") is None:
        options = " ".join(options).replace(" --log tensorboard", "").split()
    small = [f"--set={key}={value}" for key, value in FAST.items()]
    given = [*small, "--quiet", "--threads", 1] if name in ("run", "update") else []
    result = command(name, *given, *options)
    assert result.returncode == 0, result.stderr
    return result


def test_the_page_on_updating(folder):
    lines = commands("updating.md")
    assert [line.split()[0] for line in lines] == ["run", "update", "recommend", *["run"] * 3]
    for line in lines:
        follow(line)
    for run in ("monday", "tuesday", "short", "final"):
        assert (folder / "runs" / run / "metrics.json").exists()
    assert (folder / "runs" / "short" / "model.checkpoint").is_dir()
    assert pf.PDRec.load(folder / "runs" / "short" / "model").history.epochs == 4
    assert (folder / "runs" / "final" / "selection" / "model").is_dir()


def test_the_page_on_callbacks(folder, capsys, monkeypatch):
    (line,) = commands("callbacks.md")
    follow(line)
    with (folder / "runs" / "clicks" / "epochs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["model"] for row in rows] == ["DiffRec"] * 3 + ["sasrec+fusion"] * 3
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "callbacks.md").read_text(), re.DOTALL)
    config = fast_config()
    monkeypatch.setattr(pf.RunConfig, "from_preset", lambda name: config)
    exec(block, {})
    shown = capsys.readouterr().out
    assert "sasrec+fusion learning rate 0.002" in shown
    assert shown.count("best epoch") == 2
    assert (folder / "epochs.csv").exists()
