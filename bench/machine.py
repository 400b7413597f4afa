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
from bench.target import Target

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_MATRIX = {"cpu": 2048, "cuda": 8192}
_SMALLEST_COPY, _LARGEST_COPY = 2**20, 2**29
_GPU_COPY = 2**32
_COVER = 2**31


def environment(threads: int, target: Target) -> dict[str, Any]:
    """Versions and hardware, JSON values only."""
    on_gpu = {"interpreter": target.interpreter, "triton": _version("triton")}
    if target.device.type == "cuda":
        on_gpu |= _gpu(target.device)
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
        "peak_memory": _memory_method(target.device),
        **(on_gpu if target.gpu else {}),
    }


def _memory_method(device: torch.device) -> str:
    if device.type == "cuda":
        return "rise of torch.cuda.max_memory_allocated during one call"
    if _CLEAR_REFS.exists():
        return "rise of VmHWM over VmRSS during one call (/proc/self/clear_refs)"
    return "not measured: needs Linux"


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "gpu_memory": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n")[0].strip()


class Clock:
    """Seconds of one call.

    On a GPU a stage, which ends with arrays on the host, is timed by the host's clock between
    synchronisations, and a kernel by events on the device. Before a kernel a large buffer is
    written: nothing the call reads is left in the cache, and the writing takes about half a
    millisecond, in which the host gets ahead so that its own work is not timed.
    """

    def __init__(self, device: torch.device, events: bool = True) -> None:
        self.device = device
        self.cover: torch.Tensor | None = None
        if events and device.type == "cuda":
            self.cover = torch.empty(_COVER // 4, device=device)
            self.start, self.stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self, run: Callable[[], Any]) -> float:
        if self.cover is None:
            self._synchronize()
            before = time.perf_counter()
            run()
            self._synchronize()
            return time.perf_counter() - before
        self.cover.zero_()
        self.start.record()
        run()
        self.stop.record()
        self.stop.synchronize()
        return self.start.elapsed_time(self.stop) / 1e3

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


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
    """Copy bandwidth and matrix rate of a device: the best seen in all of a run.

    On a CPU a copy is measured at the footprint of the operation (rounded to a power of two), as
    data that fit into a cache have the cache's bandwidth; on a GPU, far beyond the cache.
    """

    def __init__(self, seconds: float = 0.1, device: torch.device | None = None) -> None:
        self.seconds = seconds  # of measuring, each
        self.device = device or torch.device("cpu")
        self._copy: dict[tuple[int, int], float] = {}  # (footprint, threads) -> bytes per second
        self._matmul: dict[tuple[str, int], float] = {}  # (dtype, threads) -> flops per second

    def measure(self, floor: Floor) -> None:
        """Measure what ``floor`` depends on with the current threads; the best so far counts."""
        threads = torch.get_num_threads()
        if floor.bytes:
            size = self._footprint(floor)
            source = torch.arange(size // 8, dtype=torch.float32, device=self.device)
            target = torch.zeros_like(source)
            # A small copy is faster with one thread, above all on a busy machine.
            for n in {1, threads} if self.device.type == "cpu" else {threads}:
                with torch_threads(n):
                    rate = size / self._best_seconds(lambda: target.copy_(source))
                self._copy[size, threads] = max(rate, self._copy.get((size, threads), 0.0))
        if floor.flops:
            size = _MATRIX[self.device.type]
            a = torch.randn(size, size, device=self.device).to(_DTYPES[floor.dtype])
            out = torch.empty_like(a)
            rate = 2 * size**3 / self._best_seconds(lambda: torch.mm(a, a, out=out))
            key = floor.dtype, threads
            self._matmul[key] = max(rate, self._matmul.get(key, 0.0))

    def sides(self, floor: Floor, threads: int) -> dict[str, float]:
        """The seconds that the bytes and the products of a floor that was measured take."""
        sides = {"copy": 0.0, "matmul": 0.0}
        if floor.bytes:
            sides["copy"] = floor.bytes / self._copy[self._footprint(floor), threads]
        if floor.flops:
            sides["matmul"] = floor.flops / self._matmul[floor.dtype, threads]
        return sides

    def seconds_of(self, floor: Floor, threads: int) -> tuple[float, str]:
        """The seconds of a floor that was measured, and which side of it sets them."""
        sides = self.sides(floor, threads)
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
        clock = Clock(self.device)
        best, started = float("inf"), time.perf_counter()
        run()
        while time.perf_counter() - started < self.seconds or best == float("inf"):
            best = min(best, clock(run))
        return best

    def _footprint(self, floor: Floor) -> int:
        if self.device.type == "cuda":
            return _GPU_COPY
        size = round(min(max(floor.bytes, _SMALLEST_COPY), _LARGEST_COPY))
        return 1 << size.bit_length() - 1


def measured_call(
    run: Callable[[], Any], device: torch.device | None = None
) -> tuple[float, int | None]:
    """Call ``run`` once: its seconds, and by how many bytes its peak exceeds the memory before.

    On a CPU the peak is None where the kernel does not tell; what the allocator keeps of earlier
    calls is given back first, so that a call cannot hide its memory there. On a GPU ``run`` is
    called twice, as the first call compiles.
    """
    gc.collect()
    if device is not None and device.type == "cuda":
        return _measured_gpu_call(run, device)
    measures = _CLEAR_REFS.exists()
    if measures:
        _trim_heap()
        _CLEAR_REFS.write_text(_RESET_PEAK)
        before = _status_bytes("VmRSS")
    seconds = Clock(torch.device("cpu"))(run)
    return seconds, max(_status_bytes("VmHWM") - before, 0) if measures else None


def _measured_gpu_call(run: Callable[[], Any], device: torch.device) -> tuple[float, int]:
    run()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    seconds = Clock(device, events=False)(run)
    return seconds, torch.cuda.max_memory_allocated(device) - before


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
