"""One pool of threads for torch and the extension.

torch's OpenMP threads spin for a while after each of its operations. Threads that the extension
starts beside them find every core taken, so that two threads were slower than one. Where torch's
runtime can be found, the extension therefore runs on its threads. ``PDREC_OWN_THREADS=1`` keeps the
two apart.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

_MAPS = Path("/proc/self/maps")
_RUNTIMES = ("libgomp", "libiomp5", "libomp")


def openmp_runtime() -> Path | None:
    """The OpenMP runtime that torch has loaded; None where there is none, or no telling which."""
    if not _MAPS.exists() or not torch.backends.openmp.is_available():
        return None
    fields = (line.split(maxsplit=5) for line in _MAPS.read_text().splitlines())
    loaded = {Path(line[5]) for line in fields if len(line) == 6}  # the last is a file's path
    found = [path for path in loaded if path.name.startswith(_RUNTIMES)]
    torchs = Path(torch.__file__).resolve().parent  # an environment may be a link
    own = [path for path in found if path.is_relative_to(torchs)]
    candidates = own or found
    return candidates[0] if len(candidates) == 1 else None


def share_with(extension: object) -> None:
    """Let the extension's kernels run on torch's threads, where that is possible."""
    path = None if os.environ.get("PDREC_OWN_THREADS") == "1" else openmp_runtime()
    if path is None:
        return
    try:
        run_team = ctypes.CDLL(str(path)).GOMP_parallel
    except (OSError, AttributeError):
        return
    extension.use_team(ctypes.cast(run_team, ctypes.c_void_p).value)  # type: ignore[attr-defined]
