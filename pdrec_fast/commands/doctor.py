"""The command ``doctor``: what was built, what runs here, and what to do about the rest."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from getpass import getuser
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import torch
import typer

from pdrec_fast import __version__
from pdrec_fast.build_info import build_info, triton_problem
from pdrec_fast.commands.kernel_caches import compile_numba, triton_folder
from pdrec_fast.errors import one_line
from pdrec_fast.ops.packed.packed_dropout import DropoutKey, packed_dropout

# What a user may ask for -> the extra that brings it, and its modules.
EXTRAS = {
    "parquet": ("frames", ("pyarrow",)),
    "pandas": ("frames", ("pandas",)),
    "polars": ("frames", ("polars",)),
    "tune": ("tune", ("optuna",)),
    "studies": ("studies", ("jinja2", "matplotlib", "pandas", "scipy")),
}
_OLDEST_TORCH = (2, 6)
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Check:
    """One thing that works here, or does not.

    Args:
        name: what ``--require`` calls it.
        ok: whether it works.
        what: what was found.
        todo: what to do, where it does not work.
    """

    name: str
    ok: bool
    what: str
    todo: str = ""


def doctor(
    require: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Comma-separated names of the first column, such as gpu,parquet: exit with "
            "status 1 where one of them does not work.",
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """What was built, what runs on this machine, and what to do about the rest."""
    found = {check.name: check for check in checks()}
    required = [name.strip() for name in require.split(",") if name.strip()]
    for name in required:
        if name not in found:
            raise ValueError(f"--require: unknown {name!r}; choose among {', '.join(found)}")
    if as_json:
        print(json.dumps([asdict(check) for check in found.values()], indent=1))
    else:
        print(_table(list(found.values())))
    failed = [name for name in required if not found[name].ok]
    if failed:
        print(f"error: required, and does not work here: {', '.join(failed)}", file=sys.stderr)
        raise typer.Exit(1)


def checks() -> Iterator[Check]:
    """All that ``doctor`` looks at; kernels are compiled and run, extras are imported."""
    libc = " ".join(platform.libc_ver())
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Check("package", True, f"pdrec_fast {__version__}; {python}, {libc}".rstrip(", "))
    yield _extension()
    yield _threads()
    yield _torch()
    yield _gpu()
    yield _triton()
    yield from _numba()
    yield _cache("triton", "TRITON_CACHE_DIR", triton_folder())
    default = Path(tempfile.gettempdir()) / f"torchinductor_{_user()}"
    folder = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or default)
    yield _cache("inductor", "TORCHINDUCTOR_CACHE_DIR", folder)
    for name, (extra, modules) in EXTRAS.items():
        yield _extra(name, extra, modules)


def _table(found: Collection[Check]) -> str:
    lines = []
    for check in found:
        lines.append(f"{'ok' if check.ok else 'no'}  {check.name:<14}  {check.what}")
        if check.todo:
            lines.append(f"{'':<20}to do: {check.todo}")
    return "\n".join(lines)


def _one_line(error: BaseException) -> str:
    """An exception as part of a line."""
    return f"{type(error).__name__}: {one_line(error)[:300]}"


def _extension() -> Check:
    info = build_info()
    if not info["extension"]:
        problem, _, todo = info["problem"].partition("; ")
        return Check("extension", False, f"{problem}; slower PyTorch code runs instead", todo)
    built, runnable = (", ".join(info[key]) for key in ("isas_built", "isas_runnable"))
    what = (
        f"{info['build_type']} by {info['compiler'].strip()}; {info['isa']} in use; built: {built}"
    )
    return Check("extension", True, f"{what}; this processor runs: {runnable}")


def _cpus() -> int:
    """Processors that this process may use: by its affinity, and by its container's quota."""
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert n_cpus is not None
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(n_cpus, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return n_cpus


def _threads() -> Check:
    threads, cpus = torch.get_num_threads(), _cpus()
    what = f"{threads} threads on {cpus} processors that this process may use"
    todo = f"set OMP_NUM_THREADS={cpus}: threads that wait for one another cost far more than one"
    return Check("threads", threads <= cpus, what, todo if threads > cpus else "")


def _torch() -> Check:
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
    if torch.version.hip:
        built = f"ROCm {torch.version.hip}"
    numbers = tuple(int(part) for part in torch.__version__.split(".")[:2])
    ok = numbers >= _OLDEST_TORCH
    return Check(
        "torch",
        ok,
        f"torch {torch.__version__}, built for {built}",
        "" if ok else "pip install 'torch>=2.6'",
    )


def _gpu() -> Check:
    if torch.cuda.is_available():
        try:
            torch.ones(1, device="cuda").sum().item()
        except RuntimeError as error:
            todo = "compare the GPU's driver (nvidia-smi) and its generation with torch's CUDA"
            return Check("gpu", False, f"found, but cannot compute: {_one_line(error)}", todo)
        return Check("gpu", True, "; ".join(map(_described, range(torch.cuda.device_count()))))
    if torch.version.cuda is None and torch.version.hip is None:
        todo = "where there is a GPU, install a torch for it: https://pytorch.org/get-started"
        return Check("gpu", False, "torch is built for CPUs", todo)
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    what = "torch finds no GPU" + ("" if seen is None else f" (CUDA_VISIBLE_DEVICES={seen!r})")
    todo = "ask the scheduler for one (--gres=gpu:1, nvidia.com/gpu: 1), and look at nvidia-smi"
    return Check("gpu", False, what, todo)


def _described(index: int) -> str:
    found = torch.cuda.get_device_properties(index)
    memory = found.total_memory / 2**30
    return f"cuda:{index} {found.name}, {memory:.0f} GiB, sm_{found.major}{found.minor}"


def _triton() -> Check:
    """Its kernels are tried where they can run; they need a C compiler the first time."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    problem = triton_problem(device)
    if problem and triton_problem("cuda") is None:
        problem = "there is no GPU to run kernels on"
    try:
        found = f"triton {version_of('triton')}"
    except PackageNotFoundError:
        found = "not installed"
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    compiler = os.environ.get("CC") or shutil.which("clang") or shutil.which("gcc")
    found += f"; C compiler: {compiler or 'none'}"
    if problem is not None:
        what, _, todo = problem.partition("; ")
        return Check("triton", False, f"{found}; {what}", todo)
    try:
        x, indptr = torch.ones(2, 4, device=device), torch.tensor([0, 2], device=device)
        key = DropoutKey(0, 0, torch.zeros(1, dtype=torch.int64, device=device))
        packed_dropout(x, indptr, 0.5, key=key, stream=0, impl="triton").sum().item()
    except Exception as error:
        todo = "set TRITON_CACHE_DIR to a folder that can be written"
        if not compiler:
            todo = "install gcc, or fill the cache elsewhere: pdrec-fast warmup"
        elif not headers.exists():
            todo = f"install Python's headers: Triton compiles against {headers}"
        return Check("triton", False, f"{found}; a kernel failed: {_one_line(error)}", todo)
    return Check("triton", True, f"{found}; a kernel ran on {device}")


def _numba() -> Iterator[Check]:
    """Its kernels and where they were kept."""
    try:
        compiled = compile_numba()
    except Exception as error:
        todo = "pip install --upgrade numba; until then plain NumPy runs instead"
        yield Check("numba", False, f"a kernel failed: {_one_line(error)}", todo)
        return
    yield Check("numba", True, f"numba {version_of('numba')}; {compiled.kernels} kernels ran")
    if compiled.folder is None:
        todo = "set NUMBA_CACHE_DIR to a folder that can be written"
        yield Check("numba-cache", False, "none: every process compiles its kernels", todo)
    else:
        yield Check("numba-cache", True, str(compiled.folder))


def _cache(name: str, variable: str, folder: Path) -> Check:
    """Whether files can be made in the folder that the variable sets, or where it would be made."""
    try:
        there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        todo = f"set {variable} to a folder that can be written"
        return Check(f"{name}-cache", False, f"{folder}: {error.strerror}", todo)
    return Check(f"{name}-cache", True, str(folder))


def _user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _extra(name: str, extra: str, modules: tuple[str, ...]) -> Check:
    versions = []
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # also those that a broken installation raises
            todo = f'pip install "pdrec_fast[{extra}]"'
            return Check(name, False, _one_line(error), todo)
        versions.append(f"{module} {version_of(module)}")
    return Check(name, True, ", ".join(versions))
