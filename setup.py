"""Metadata lives in pyproject.toml; this file maps packages and builds the C++ extension."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Builds the extension with CMake, which knows the per-instruction-set sources."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        output, suffix = target.parent, target.name.removeprefix("_C")
        work = Path(self.build_temp).resolve() / "cmake"
        work.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            f"-S{ROOT}",
            f"-B{work}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            # Of the machine that is built for, which the interpreter need not run on.
            f"-DPYTHON_MODULE_EXTENSION={suffix}",
            "-DPYTHON_MODULE_DEBUG_POSTFIX=",
        ]
        if shutil.which("ninja"):
            configure.append("-GNinja")
        jobs = ["--parallel", str(self.parallel)] if self.parallel else ["--parallel"]
        try:
            subprocess.run(configure, check=True)
            subprocess.run(["cmake", "--build", str(work), *jobs], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(f"{ext.name} was not built: {error}") from error


packages = find_packages(include=["pdrec_fast", "pdrec_fast.*"])
kernel_packages = ["kernels", *(f"kernels.{name}" for name in find_packages("kernels"))]

setup(
    packages=packages + [f"pdrec_fast.{name}" for name in kernel_packages],
    package_dir={"pdrec_fast": "pdrec_fast", "pdrec_fast.kernels": "kernels"},
    package_data={
        "pdrec_fast": ["py.typed", "_C.pyi"],
        "pdrec_fast.presets": ["*.json"],
        "pdrec_fast.studies": ["paper.csv", "templates/*"],
    },
    # Optional: without a compiler the package installs and runs on its PyTorch reference. Who works
    # on it sets PDREC_REQUIRE_EXTENSION, as make does, so that an error does not go unseen.
    ext_modules=[
        Extension(
            "pdrec_fast._C", sources=[], optional=not os.environ.get("PDREC_REQUIRE_EXTENSION")
        )
    ],
    cmdclass={"build_ext": CMakeBuild},
)
