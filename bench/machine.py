"""What a run says of the machine: versions, hardware, its copy and matrix rates, peak memory."""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import pdrec_fast as pf
from bench.registry import Floor

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_MATRIX = 2048
_SMALLEST_COPY, _LARGEST_COPY = 2**20, 2**29


def environment(threads: int) -> dict[str, Any]:
    """Versions and hardware, JSON values only."""
    return {
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "pdrec_fast": pf.__version__,
        **{name: _version(name) for name in ("torch", "numpy", "numba", "pandas")},
        "revision": _revision(Path(pf.__file__).parent),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "isa": pf.build_info().get("isa"),
        "threads": threads,
        "peak_memory": "rise of VmHWM over VmRSS during one call (/proc/self/clear_refs)"
        if _CLEAR_REFS.exists()
        else "not measured: needs Linux",
    }


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Run with ``n`` threads of torch, which the package's own kernels follow."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Rates:
    """Copy bandwidth and matrix rate of this machine: the best seen in all of a run.

    A copy is measured at the footprint of the operation (rounded to a power of two), as data that
    fit into a cache have the cache's bandwidth.
    """

    def __init__(self, seconds: float = 0.1) -> None:
        self.seconds = seconds  # of measuring, each
        self._copy: dict[tuple[int, int], float] = {}  # (footprint, threads) -> bytes per second
        self._matmul: dict[tuple[str, int], float] = {}  # (dtype, threads) -> flops per second

    def measure(self, floor: Floor) -> None:
        """Measure what ``floor`` depends on with the current threads; the best so far counts."""
        threads = torch.get_num_threads()
        if floor.bytes:
            size = _footprint(floor)
            source, target = torch.ones(size // 8), torch.zeros(size // 8)
            for n in {1, threads}:  # a small copy is faster alone, above all on a busy machine
                with torch_threads(n):
                    rate = size / self._best_seconds(lambda: target.copy_(source))
                self._copy[size, threads] = max(rate, self._copy.get((size, threads), 0.0))
        if floor.flops:
            a = torch.randn(_MATRIX, _MATRIX).to(_DTYPES[floor.dtype])
            out = torch.empty_like(a)
            rate = 2 * _MATRIX**3 / self._best_seconds(lambda: torch.mm(a, a, out=out))
            key = floor.dtype, threads
            self._matmul[key] = max(rate, self._matmul.get(key, 0.0))

    def seconds_of(self, floor: Floor, threads: int) -> tuple[float, str]:
        """The seconds of a floor that was measured, and which side of it sets them."""
        sides = {"copy": 0.0, "matmul": 0.0}
        if floor.bytes:
            sides["copy"] = floor.bytes / self._copy[_footprint(floor), threads]
        if floor.flops:
            sides["matmul"] = floor.flops / self._matmul[floor.dtype, threads]
        binding = max(sides, key=lambda side: sides[side])
        return sides[binding], binding

    def report(self) -> list[dict[str, Any]]:
        """All rates measured so far."""
        copies = [
            {"rate": "copy", "footprint": size, "threads": threads, "bytes_per_second": rate}
            for (size, threads), rate in sorted(self._copy.items())
        ]
        products = [
            {"rate": "matmul", "dtype": dtype, "threads": threads, "flops_per_second": rate}
            for (dtype, threads), rate in sorted(self._matmul.items())
        ]
        return copies + products

    def _best_seconds(self, run: Callable[[], Any]) -> float:
        best, started = float("inf"), time.perf_counter()
        run()
        while time.perf_counter() - started < self.seconds or best == float("inf"):
            before = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - before)
        return best


def _footprint(floor: Floor) -> int:
    size = round(min(max(floor.bytes, _SMALLEST_COPY), _LARGEST_COPY))
    return 1 << size.bit_length() - 1


def measured_call(run: Callable[[], Any]) -> tuple[float, int | None]:
    """Call ``run`` once: its seconds, and by how many bytes its peak exceeds the memory before.

    The peak is None where the kernel does not tell. What the allocator keeps of earlier calls is
    given back first, so that a call cannot hide its memory there.
    """
    gc.collect()
    measures = _CLEAR_REFS.exists()
    if measures:
        _trim_heap()
        _CLEAR_REFS.write_text(_RESET_PEAK)
        before = _status_bytes("VmRSS")
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    return seconds, max(_status_bytes("VmHWM") - before, 0) if measures else None


def _trim_heap() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
    if trim is not None:
        trim(0)


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} has no {name}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision(folder: Path) -> str | None:
    """Short hash of the source tree, with "+" where tracked files differ from it."""
    try:
        return _git(folder, "rev-parse", "--short", "HEAD") + (
            "+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())
