"""The command ``doctor``: what works, and status 1 where something required does not."""

import json
import sys
from pathlib import Path

import pytest
import torch

from pdrec_fast.build_info import build_info
from tests.test_pipeline import command

doctor = sys.modules["pdrec_fast.commands.doctor"]  # the name in the package is the function

if sys.version_info >= (3, 11):
    import tomllib


def checks(*arguments, **environment):
    done = command("doctor", "--json", *arguments, environment=environment)
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)}


def test_it_tells_what_is_here():
    status, found = checks("--require", "package,torch,numba")
    assert status == 0
    assert found["extension"]["ok"] == build_info()["extension"]
    assert found["torch"]["what"].startswith(f"torch {torch.__version__}")
    assert found["gpu"]["ok"] == torch.cuda.is_available()
    assert "3 kernels ran" in found["numba"]["what"]
    for check in found.values():
        assert check["what"]
        assert not (check["ok"] and check["todo"])


def test_what_is_required_and_missing_ends_with_1(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # importing it fails
    done = command("doctor", "--require", "torch, parquet")
    assert done.returncode == 1
    assert "error: required, and does not work here: parquet\n" in done.stderr
    (line,) = (line for line in done.stdout.splitlines() if " parquet " in line)
    assert line.startswith("no")
    assert 'to do: pip install "pdrec_fast[frames]"' in done.stdout


def test_an_unknown_name_is_refused():
    done = command("doctor", "--require", "gpus")
    assert done.returncode == 1
    refused = "error: --require: unknown 'gpus'; choose among package, extension"
    assert done.stderr.startswith(refused)


def test_more_threads_than_processors(monkeypatch, tmp_path):
    quota = tmp_path / "cpu.max"
    quota.write_text("100000 100000\n")
    monkeypatch.setattr(doctor, "_QUOTA", quota)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    found = doctor._threads()
    assert not found.ok
    assert found.what == "4 threads on 1 processors that this process may use"
    assert "OMP_NUM_THREADS=1" in found.todo


def test_an_extension_that_does_not_load(monkeypatch):
    broken = {"extension": False, "problem": "it does not load: no symbol; build it again"}
    monkeypatch.setattr(doctor, "build_info", lambda: broken)
    found = doctor._extension()
    assert (found.ok, found.todo) == (False, "build it again")
    assert "it does not load: no symbol" in found.what


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "new" / "folder"))
    assert doctor._cache("inductor", "TORCHINDUCTOR_CACHE_DIR", tmp_path / "new" / "folder").ok

    def refused(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    found = doctor._cache("triton", "TRITON_CACHE_DIR", tmp_path / "kernels")
    assert (found.ok, found.what) == (False, f"{tmp_path / 'kernels'}: Permission denied")
    assert found.todo == "set TRITON_CACHE_DIR to a folder that can be written"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_extras_are_those_of_the_package():
    project = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    named = {}
    for extra, modules in doctor.EXTRAS.values():
        named.setdefault(extra, set()).update(modules)
    for extra, modules in named.items():
        assert {line.split(">=")[0] for line in extras[extra]} == modules, extra
