"""Commands and options that docs/running.md, docs/studies.md and other pages show exist and run."""

import re
import shlex
from pathlib import Path

import pytest

from tests.test_pipeline import SHORT, command

ROOT = Path(__file__).resolve().parents[2]
EXTRA = {
    "run": [*SHORT, "--quiet", "--threads", 1],
    "tune": ["--trials", 2, "--epochs", 1, "--quiet"],
    "study": [*SHORT, "--seeds", 1, "--quiet"],
}


def follow(page):
    lines = re.findall(r"^    pdrec-fast (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    for line in lines:
        result = command(*shlex.split(line), *EXTRA.get(line.split()[0], []))
        assert result.returncode == 0, f"{line}\n{result.stderr}"
    return [line.split()[0] for line in lines]


def test_tune_study_report(clicks):
    pytest.importorskip("optuna")
    pytest.importorskip("scipy")
    names = follow("docs/studies.md")
    assert names == ["presets", "tune", "run", "study", "report", "collect"]
    for made in ("clicks-tuned.json", "runs/tuned/metrics.json", "studies/clicks/tables.md"):
        assert (clicks / made).is_file(), made
    assert "<table" in (clicks / "report.html").read_text()


def test_options_of_the_table_exist(clicks):
    text = (ROOT / "docs" / "running.md").read_text()
    options = re.findall(r"^\| `(--.*?)` \|", text, re.MULTILINE)
    assert len(options) >= 12
    settings = re.findall(r"^\| `(pdrec\.\S+=\S+)` \|", text, re.MULTILINE)
    assert len(settings) >= 6
    # The data are looked for once all options have been understood.
    for option in [*options, *(f"--set {setting}" for setting in settings)]:
        result = command("run", "--data", "nowhere.csv", "--out", "out", *shlex.split(option))
        assert result.stderr == "error: nowhere.csv: no such file\n", option


def test_every_command_of_a_page_is_one():
    """Whatever page names it: a command that is gone, or an option of it that is."""
    helps = {}
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(r"^    (?:\.venv/bin/)?pdrec-fast (.*)$", text, re.MULTILINE):
            name, *words = shlex.split(line, comments=True)
            if name not in helps:
                helps[name] = command(name, "--help", environment={"COLUMNS": "300"})
                assert helps[name].returncode == 0, f"{page.name}: {line}"
            for word in (w.partition("=")[0] for w in words if w.startswith("--")):
                assert word in helps[name].stdout, f"{page.name}: {name} has no {word}"
