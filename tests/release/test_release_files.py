"""What ships the package is well-formed, and asks for nothing that it should not."""

import re
import sys
from pathlib import Path

import pytest

import pdrec_fast

ROOT = Path(__file__).resolve().parents[2]

if sys.version_info >= (3, 11):
    import tomllib


@pytest.fixture(scope="module")
def project():
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def names(requirements):
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}


def test_a_wheel_asks_for_any_torch_and_no_gpu(project):
    """One that is installed stays, be it for CPUs: a lower bound, no cap, no Triton, no CUDA."""
    required = project["project"]["dependencies"]
    (torch,) = (each for each in required if each.startswith("torch"))
    assert torch == "torch>=2.6"
    assert names(required) == {
        "torch",
        "numpy",
        "numba",
        "safetensors",
        "tqdm",
        "typer",
        "filelock",
    }


def test_the_version_is_written_once_and_said_alike(project):
    """In the package; the build reads it there, and what repeats it agrees."""
    assert project["project"]["dynamic"] == ["version"]
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pdrec_fast.__version__"}
    version = pdrec_fast.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [version]
    date = re.findall(r"^date-released: (.*)$", citation, re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d.*)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert released[0] == (version, *date)
    shown = (ROOT / "docs" / "installing.md").read_text()
    assert {*re.findall(r"pdrec[_-]fast[- ](\d+\.\d+\.\d+)", shown)} == {version}


def test_a_build_never_pulls_torch(project):
    asked = names(project["build-system"]["requires"])
    assert asked == {"setuptools", "pybind11", "cmake", "ninja"}


def test_cibuildwheel_builds_every_python_of_the_package(project):
    settings = project["tool"]["cibuildwheel"]
    built = settings["build"].split()
    assert project["project"]["requires-python"] == ">=3.10"
    assert built[0] == "cp310-manylinux_*"
    assert all(each.endswith("-manylinux_*") for each in built)  # torch has no wheels for musl
    for source in settings["test-sources"]:
        assert (ROOT / source).exists(), source


def test_the_workflow_runs_it():
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github/workflows/wheels.yml").read_text())["jobs"]
    commands = [step.get("run", "") for step in jobs["wheels"]["steps"]]
    assert any("cibuildwheel --output-dir dist" in command for command in commands)
    assert {"ubuntu-24.04", "ubuntu-24.04-arm"} == set(
        jobs["wheels"]["strategy"]["matrix"]["runner"]
    )
