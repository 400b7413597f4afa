"""The cluster's files parse, and the commands in them are commands with these options."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import typer

import pdrec_fast as pf
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


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("run.sbatch", ["doctor", "run"]),
        ("study.sbatch", ["doctor", "study"]),
        ("ranks.sbatch", ["run"]),
    ],
)
def test_slurm(name, commands):
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    done = subprocess.run(["bash", "-n", FOLDER / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (FOLDER / name).read_text()
    found = calls(text)
    assert [words[0] for words in found] == commands
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


@pytest.mark.parametrize("kind", ["int64", "str"])
def test_spark_writes_a_store(tmp_path, kind):
    """All that happens on its workers and after them; Spark itself only groups the records."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    spec = importlib.util.spec_from_file_location("prepare_spark", FOLDER / "prepare_spark.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    numbers = np.arange(200)
    users = [f"ü{n}" if kind == "str" else n for n in numbers * 7 % 17]
    records = pd.DataFrame(
        {"user_id": users, "item": numbers * numbers % 13, "timestamp": numbers[::-1] + 0.5}
    )
    items = sorted(set(records["item"]))
    records["item"] = np.searchsorted(items, records["item"])
    example.write_ids(tmp_path / "item_ids", items, "int64")
    parts = np.array([zlib.crc32(str(user).encode()) % 4 for user in users])
    parts[parts == 2] = 3  # a part of nobody
    lines = [
        example.write_part(tmp_path, part, records[parts == part].sample(frac=1), kind)
        for part in range(4)
    ]
    example.write_card(tmp_path, lines, {"user_id": kind, "item_id": "int64"}, len(items))
    expected = pf.Interactions.from_arrays(
        users, np.array(items)[records["item"]], records["timestamp"].to_numpy()
    )
    assert pf.Interactions.from_store(tmp_path).fingerprint() == expected.fingerprint()
    assert lines[2]["n_users"] == 0
    assert pf.Interactions.from_store(tmp_path, part=(2, 4)).n_items == len(items)


def test_the_container_asks_doctor():
    text = (FOLDER / "Containerfile").read_text()
    for words in calls(text):
        check(words)
    assert [words[0] for words in calls(text)] == ["doctor"]
    assert "--no-index --require-hashes" in text
