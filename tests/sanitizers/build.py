"""The C++ extension with sanitizers, in a folder of its own; the installed one stays as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pybind11

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "sanitizers"
HERE = Path(__file__).resolve().parent


class Sanitizer(NamedTuple):
    """What the compiler adds, and how it runs.

    Attributes:
        flags: of the compiler.
        runtimes: libraries that a process must load before all others.
        options: environment variables; halting at the first finding, so that none goes unseen.
    """

    flags: str
    runtimes: tuple[str, ...]
    options: dict[str, str]


SANITIZERS = {
    # Leaks of a whole Python process are not looked for: modules are never freed.
    "address": Sanitizer(
        "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all",
        ("libasan.so", "libubsan.so"),
        {
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:exitcode=86:strict_init_order=1"
            ":detect_stack_use_after_return=1:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=86",
        },
    ),
    "thread": Sanitizer(
        # Every operation takes as many threads as it may, however little there is to do.
        "-fsanitize=thread -DPDREC_WORK_PER_THREAD=1.0",
        ("libtsan.so",),
        {
            "TSAN_OPTIONS": f"suppressions={HERE / 'thread.supp'}:halt_on_error=1:exitcode=86"
            ":second_deadlock_stack=1:history_size=4:die_after_fork=0",
        },
    ),
}


def built(name: str, jobs: int) -> Path:
    """Builds what is not up to date; the extension's file."""
    folder = FOLDER / name
    flags = f"{SANITIZERS[name].flags} -g -fno-omit-frame-pointer -D_GLIBCXX_ASSERTIONS"
    # Release, as users have it: what the optimiser makes of the code is what is looked at.
    beside = str(Path(sys.executable).parent)
    cmake = shutil.which("cmake", path=os.pathsep.join([beside, os.environ["PATH"]]))
    if cmake is None:
        raise SystemExit("there is no CMake: pip install cmake")
    configure = [
        cmake,
        f"-S{ROOT}",
        f"-B{folder / 'cmake'}",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={folder}",
        f"-DCMAKE_CXX_FLAGS={flags}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([cmake, "--build", str(folder / "cmake"), "--parallel", str(jobs)], check=True)
    (module,) = folder.glob("_C.*.so")
    return module


def environment(name: str) -> dict[str, str]:
    """Variables under which a Python process loads that extension and the sanitizer's runtime."""
    sanitizer = SANITIZERS[name]
    (module,) = (FOLDER / name).glob("_C.*.so")
    return {
        "LD_PRELOAD": ":".join(map(_runtime, sanitizer.runtimes)),
        "PYTHONPATH": f"{HERE / 'preload'}:{ROOT}",
        "PYTHONMALLOC": "malloc",  # Python's own would hide where an object ends
        "PDREC_SANITIZED": str(module),
        **sanitizer.options,
    }


def _runtime(library: str) -> str:
    """Where the compiler has it."""
    command = ["c++", f"-print-file-name={library}"]
    path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if not Path(path).is_absolute():
        raise SystemExit(
            f"{library} is not installed: install GCC's sanitizer runtimes (libasan, "
            "libubsan and libtsan of gcc)"
        )
    return path
