"""The cluster's files parse, and the commands in them are commands with these options."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from pdrec_fast.cli import app

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "cluster"
COMMANDS = typer.main.get_command(app).commands


def check(words):
    """A command of pdrec-fast with its options, as a list; values may still be variables."""
    name, *arguments = words
    known = {option for each in COMMANDS[name].params for option in each.opts}
    options = {word.split("=")[0] for word in arguments if word.startswith("-")}
    assert options, words
    assert options <= known, sorted(options - known)


def calls(text):
    """The calls of pdrec-fast in a script, without its comments."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = lines.replace("\\\n", " ")
    found = re.findall(r"(?:bin/pdrec-fast\"|&& pdrec-fast|-m pdrec_fast)\s+(.+)", joined)
    return [shlex.split(call.removesuffix("&")) for call in found]


@pytest.mark.parametrize("name", ["run.sbatch", "study.sbatch"])
def test_slurm(name):
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    done = subprocess.run(["bash", "-n", FOLDER / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (FOLDER / name).read_text()
    found = calls(text)
    assert [words[0] for words in found] == ["doctor", name.removesuffix(".sbatch")]
    for words in found:
        check(words)
    # Slurm reads its options up to the first command.
    head, _, body = text.partition("\nset -euo pipefail\n")
    assert "#SBATCH --time=" in head
    assert "#SBATCH" not in body


@pytest.mark.parametrize("name", ["run.yaml", "warmup.yaml"])
def test_kubernetes(name):
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((FOLDER / name).read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        words = container["args"]
        if container.get("command") == ["torchrun"]:
            start = words.index("pdrec_fast")
            assert words[start - 1] == "-m"
            words = words[start + 1 :]
        check(words)


def test_the_container_asks_doctor():
    text = (FOLDER / "Containerfile").read_text()
    for words in calls(text):
        check(words)
    assert [words[0] for words in calls(text)] == ["doctor"]
    assert "--no-index --require-hashes" in text
