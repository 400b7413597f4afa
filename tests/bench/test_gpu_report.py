"""The whole report under the interpreter, in a process of its own: Triton chooses at its import.

With a GPU too, where compiling every baseline would take minutes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bench.catalogue  # noqa: F401
from bench import gpu
from bench.registry import OPERATIONS
from bench.target import COMPILED, CPU, Target, eager, target, targeting

pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("matplotlib", reason="figures need matplotlib")

ROOT = Path(__file__).resolve().parents[2]
ON_GPU = {name: operation for name, operation in OPERATIONS.items() if operation.gpu_sizes}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "tiny.json"
    command = [sys.executable, "-m", "bench", "gpu", "--tiny", "--no-tests", "--json", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    before = sorted((ROOT / "bench" / "results").iterdir())
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert sorted((ROOT / "bench" / "results").iterdir()) == before
    return json.loads(path.read_text()), done, path


def test_every_operation_runs_and_agrees(report):
    document, *_ = report
    assert document["failures"] == {}
    assert document["unavailable"] == []
    assert document["skipped"] == []
    assert {row["op"] for row in document["rows"]} == set(ON_GPU)


def test_every_kernel_has_its_baselines(report):
    document, *_ = report
    for name in ON_GPU:
        rows = [row for row in document["rows"] if row["op"] == name]
        impls = {row["impl"] for row in rows}
        assert COMPILED in impls
        assert {row["role"] for row in rows} >= {"subject", "reference"}
        assert all(row["median"] > 0 and row["ratio_to_reference"] > 0 for row in rows)
        assert all(row["floor"]["seconds"] > 0 for row in rows)


def test_precisions_are_all_there(report):
    document, *_ = report
    for name, operation in ON_GPU.items():
        wanted = {sizes.get("precision") for sizes in operation.gpu_sizes}
        assert {r["sizes"].get("precision") for r in document["rows"] if r["op"] == name} == wanted


def test_the_interpreters_times_are_marked_and_judged_by_no_target(report):
    document, done, _ = report
    assert document["environment"]["interpreter"] is True
    assert document["tiny"] is True
    assert document["goals"] == []
    assert "not judged" in done.stdout
    assert "no CUDA device" in done.stderr


def test_figures_are_drawn(report):
    *_, path = report
    drawn = {figure.name for figure in path.with_suffix("").iterdir()}
    assert drawn == {"speed-up.svg", "floor.svg", "stages.svg"}


def test_a_target_holds_within_its_block():
    other = Target(CPU.device, gpu=True)
    with targeting(other):
        assert target() is other
        assert target().interpreter
        assert list(eager("plain", lambda forward: forward(), int)) == ["plain", COMPILED]
    assert target() is CPU
    assert list(eager("plain", lambda forward: forward(), int)) == ["plain"]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ],
)
def test_names_of_devices(name, short, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda: name)
    assert gpu.device_name() == short


def suite(tmp_path, monkeypatch, text):
    """A tree whose tests are ``text``."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -ra\n")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)


def test_tests_of_a_gpu_come_first(tmp_path, monkeypatch):
    suite(tmp_path, monkeypatch, "")
    (tmp_path / "tests" / "kernels" / "packed").mkdir(parents=True)
    first = "kernels/packed/test_x.py", "kernels/test_autocast_on_a_gpu.py", "test_gpu.py"
    last = "kernels/test_compiles.py", "test_gpu_report.py"
    for name in (*first, *last):
        (tmp_path / "tests" / name).touch()
    names = [str(Path(file).relative_to("tests")) for file in gpu._test_files()]
    assert names == [*first, "test_it.py", *last]


def test_a_failing_test_is_named(tmp_path, monkeypatch):
    suite(tmp_path, monkeypatch, "def test_good(): pass\ndef test_bad(): assert False\n")
    result = gpu.run_tests(60)
    assert not result["passed"]
    assert "1 failed, 1 passed" in result["summary"]
    assert ["test_bad" in line for line in result["failed"]] == [True]


def test_tests_are_stopped_when_their_time_is_up(tmp_path, monkeypatch):
    suite(tmp_path, monkeypatch, "import time\ndef test_slow(): time.sleep(60)\n")
    result = gpu.run_tests(3)
    assert not result["passed"]
    assert result["summary"].startswith("stopped after 3 s")
    assert result["seconds"] < 30
