"""What is shipped: the source distribution, the wheel built from it, and its import."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import pdrec_fast

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("pyproject.toml", "setup.py", "CMakeLists.txt", "MANIFEST.in", "README.md", "LICENSE")
SOURCES = {".py", ".pyi", ".typed", ".json", ".csv", ".html", ".css", ".cpp", ".hpp"}
TUNED = "pdrec_fast/presets/packaged.json"  # stands for files of tuned settings


def run(*command, cwd, **keywords):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, **keywords)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind, source, target):
    """``python -m build`` with the build requirements of this environment."""
    command = ("-m", "build", f"--{kind}", "--no-isolation", "--skip-dependency-check")
    run(sys.executable, *command, "--outdir", str(target), str(source), cwd=target)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Path of a source distribution, built from a copy so that the tree stays clean."""
    if not shutil.which("cmake") or not shutil.which("c++"):
        pytest.skip("building needs cmake and a C++ compiler")
    pytest.importorskip("build")
    work = tmp_path_factory.mktemp("sdist")
    source = work / "source"
    source.mkdir()
    for name in SHIPPED:
        shutil.copy(ROOT / name, source)
    built = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for name in ("csrc", "kernels", "pdrec_fast"):
        shutil.copytree(ROOT / name, source / name, ignore=built)
    (source / TUNED).write_text('{"base": "toy", "encoders": {}}')
    build("sdist", source, work)
    return next(work.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Path of a wheel built from the source distribution alone."""
    work = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(work)
    build("wheel", next(work.iterdir()), work)
    return next(work.glob("*.whl"))


def tree(*folders):
    """Source files of the repository, relative to it."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SOURCES or path.name == "py.typed"
    }


def test_sdist_holds_all_sources(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tree("csrc", "kernels", "pdrec_fast") | {*SHIPPED, TUNED} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".o"))]


def test_wheel_has_one_top_level_name_and_all_modules(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"pdrec_fast"}
    assert wheel.name.startswith(f"pdrec_fast-{pdrec_fast.__version__}-")
    modules = tree("pdrec_fast") | {TUNED} | {f"pdrec_fast/{name}" for name in tree("kernels")}
    assert modules <= set(names)
    assert [name for name in names if name.startswith("pdrec_fast/_C.") and name.endswith(".so")]
    assert not [name for name in names if name.endswith((".cpp", ".hpp", "CMakeLists.txt"))]


def test_installed_wheel_runs_from_a_foreign_directory(wheel, tmp_path):
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet")
    run(*pip, "--target", str(site), str(wheel), cwd=tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import pdrec_fast, pdrec_fast.kernels\n"
        "from pdrec_fast.build_info import build_info\n"
        "assert 'packaged' in pdrec_fast.presets.preset_names()\n"
        "print(pdrec_fast.__file__, pdrec_fast.kernels.__file__, build_info()['extension'])"
    )
    package, kernels, built = run(sys.executable, "-c", code, str(site), cwd=tmp_path).split()
    assert Path(package).parent == site / "pdrec_fast"
    assert Path(kernels).parent == site / "pdrec_fast" / "kernels"
    assert built == "True"
