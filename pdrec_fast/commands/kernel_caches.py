"""Where compiled kernels are kept, and how many had to be compiled."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pdrec_fast.ops.denoising.interval_weights import interval_weights

_BINARIES = (".cubin", ".hsaco")


@dataclass(frozen=True)
class Kernels:
    """Kernels that were called.

    Args:
        kernels: how many.
        compiled: how many of them no cache held.
        folder: where the others come from and these were kept; None where nothing keeps them.
    """

    kernels: int
    compiled: int
    folder: Path | None


def compile_numba() -> Kernels:
    """Call every Numba kernel once, which compiles those that its cache does not hold.

    The counts are those of this process since its start.

    Raises:
        Exception: whatever Numba raises where it cannot run.
    """
    indptr, times = np.array([0, 1], dtype=np.int64), np.zeros(1)
    for weighting in ("interval", "rank", "decay"):
        interval_weights(indptr, times, 0.5, 1.0, weighting, impl="numba")
    from pdrec_fast.kernels.numba.denoising import interval_weights as module

    stats = [each.stats for each in vars(module).values() if hasattr(each, "stats")]
    folder = next((each.cache_path for each in stats if each.cache_path), None)
    compiled = sum(sum(each.cache_misses.values()) for each in stats)
    return Kernels(len(stats), compiled, Path(folder) if folder else None)


def triton_folder() -> Path:
    """Where Triton keeps its kernels, by the variables that it reads."""
    given = os.environ.get("TRITON_CACHE_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("TRITON_HOME") or Path.home()) / ".triton" / "cache"


def triton_binaries() -> set[Path]:
    """The compiled kernels in Triton's cache."""
    return {path for path in triton_folder().rglob("*") if path.suffix in _BINARIES}
