"""A folder of wheels with hashes, and what pip takes from it without network."""

import base64
import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "release" / "wheelhouse.py"
spec = importlib.util.spec_from_file_location("wheelhouse", SCRIPT)
wheelhouse = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wheelhouse)


def make_wheel(folder, name, needs=(), version="1.0", code=""):
    """A wheel of one module."""
    info, folder = f"{name}-{version}.dist-info", Path(folder)
    metadata = [f"Name: {name}", f"Version: {version}", "Provides-Extra: more"]
    metadata += [f"Requires-Dist: {each}" for each in needs]
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", *metadata, ""]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},{_digest(text)},{len(text)}\n" for path, text in files.items())
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(inside, text)
    return path


def _digest(text):
    raw = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def install(folder, site):
    return subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--no-index", "--require-hashes"),
            *("--find-links", str(folder), "-r", str(folder / "requirements.txt")),
            *("--target", str(site), "--quiet"),
        ],
        capture_output=True,
        text=True,
    )


def test_what_is_gathered_installs_without_an_index(tmp_path):
    pytest.importorskip("pip")
    index, out = tmp_path / "index", tmp_path / "out"
    make_wheel(index, "needed_part", code="answer = 42")
    wheel = make_wheel(tmp_path, "main_part", needs=["needed-part>=1; extra == 'more'"])
    wheelhouse.gather([f"{wheel}[more]"], out, ["--no-index", f"--find-links={index}"])
    lines = (out / "requirements.txt").read_text().splitlines()
    assert [line.split(" --hash=sha256:")[0] for line in lines] == [
        "main_part==1.0",
        "needed_part==1.0",
    ]
    done = install(out, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "needed_part.py").read_text() == "answer = 42"

    make_wheel(out, "needed_part", code="answer = 43")
    with pytest.raises(subprocess.CalledProcessError):
        wheelhouse.verify(out)
    done = install(out, tmp_path / "other")
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_two_versions_are_refused(tmp_path):
    for version in ("1.0", "2.0"):
        make_wheel(tmp_path, "part", version=version)
    with pytest.raises(SystemExit, match=r"two wheels of part; empty the folder"):
        wheelhouse.pinned(tmp_path)


def test_a_wheel_of_another_python_is_not_taken(tmp_path):
    (tmp_path / "pdrec_fast-0.1.0-cp39-cp39-manylinux_2_17_x86_64.whl").write_text("")
    with pytest.raises(SystemExit, match=r"no wheel of pdrec_fast for cp3\d+; .*make wheels"):
        wheelhouse.own_wheel(tmp_path)
