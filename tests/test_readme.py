"""The README's commands and Python run as they are printed, and what it names is there."""

import json
import re
import shlex
from pathlib import Path

import pdrec_fast as pf
from tests.test_pipeline import SHORT, command

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python(clicks, monkeypatch):
    short = {"diffusion.epochs": 3, "pdrec.epochs": 2}
    monkeypatch.setitem(pf.PRESETS, "default", pf.with_settings(pf.PRESETS["default"], short))
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    exec(block, names)
    assert names["items"].shape == (2, 5)
    assert names["model"].fusion.shares.keys() == {"guide", "linear"}


def test_commands_run_one_after_the_other(clicks):
    lines = re.findall(r"^    \.venv/bin/pdrec-fast (.*)$", README, flags=re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["run", "recommend", "evaluate"]
    for line in lines:
        extra = [*SHORT, "--quiet", "--threads", 1] if line.startswith("run") else []
        result = command(*shlex.split(line), *extra)
        assert result.returncode == 0, result.stderr
    assert json.loads((clicks / "runs" / "clicks" / "metrics.json").read_text())["protocols"]


def test_it_is_short_and_what_it_names_is_there():
    assert len(README.split()) < 900
    named = re.findall(r"(?:`|\()([\w./-]+/|[\w./-]+\.(?:md|svg|cff))(?:`|\))", README)
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / name).exists()]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {*re.findall(r"make (\w+)", README)} <= targets
