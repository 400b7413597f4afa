"""What a process holds, and whether that grows."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import theilslopes

MIB = 2.0**20
POINTS = 50  # of a line through a half
COUNTED = ("descriptors", "threads", "files")


def reading(folder: Path) -> dict[str, int | float]:
    """What this process holds now, after the allocator has given back what it can; Linux only.

    Args:
        folder: where its temporary files are.

    Returns:
        ``rss``, ``pss``, ``private`` (see ``held_by``) and ``malloc`` (what is in use of it,
        without what the allocator keeps for later; 0 without glibc) in MiB; the numbers of
        ``descriptors``, ``threads``, ``files``, live ``tensors``, ``objects`` of Python that may
        hold others, and its allocated ``blocks``.
    """
    gc.collect()
    _trim()
    objects = gc.get_objects()
    return {
        **held_by("self"),
        "malloc": _in_use() / MIB,
        "files": sum(len(names) for _, _, names in os.walk(folder)),
        "tensors": sum(issubclass(type(each), torch.Tensor) for each in objects),
        "objects": len(objects),
        "blocks": sys.getallocatedblocks(),
    }


def held_by(process: int | str) -> dict[str, int | float]:
    """``rss``, ``pss`` and ``private`` in MiB, ``descriptors`` and ``threads`` of a process.

    Private are the pages that belong to no file. Those of libraries become private or shared as
    other processes that load them end or begin: 80 MiB here.
    """
    place = Path("/proc", str(process))
    lines = (place / "smaps_rollup").read_text().splitlines()[1:]
    pages = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return {
        "rss": pages["Rss"],
        "pss": pages["Pss"],
        "private": pages["Anonymous"],
        "descriptors": len(os.listdir(place / "fd")),
        "threads": len(os.listdir(place / "task")),
    }


class _MallInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _trim() -> None:
    """Free pages that malloc keeps for later go back to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)


def _in_use() -> int:
    """Bytes that malloc has given out, in all of its arenas."""
    tell = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc from 2.33 on
    if tell is None:
        return 0
    tell.restype = _MallInfo
    found = tell()
    return int(found.uordblks + found.hblkhd)


def slope(hours: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Growth an hour by Theil and Sen (the median of the slopes between all pairs, which a few
    odd rounds do not move), with its 95 % bounds."""
    found = theilslopes(values, hours, alpha=0.95)
    return {
        "slope": round(float(found.slope), 3),
        "low": round(float(found.low_slope), 3),
        "high": round(float(found.high_slope), 3),
    }


def least(values: Sequence[float]) -> list[float]:
    """Of so many neighbours each that ``POINTS`` are left: the allocators of pyarrow and polars
    keep what was freed for some seconds, 80 MiB, in which a leak would not be seen."""
    return [float(min(part)) for part in np.array_split(values, min(POINTS, len(values)))]


def verdict(lines: Sequence[dict[str, Any]], most: float) -> dict[str, Any]:
    """What the rounds say together.

    Args:
        lines: of all rounds, each with ``hours`` and a ``reading``.
        most: MiB an hour by which private memory may grow in the second half.

    Returns:
        The slopes of memory (of its ``least``) over the second half; of each number of ``COUNTED``
        the most in the second and in the last quarter; ``grows``, the names of what is not flat;
        ``flat``.
    """
    half = lines[len(lines) // 2 :]
    hours = least([line["hours"] for line in half])
    slopes = {
        name: slope(hours, least([line[name] for line in half])) for name in ("private", "malloc")
    }
    quarters = np.array_split(np.arange(len(lines)), 4)
    counts = {
        name: [max(lines[at][name] for at in quarters[quarter]) for quarter in (1, 3)]
        for name in COUNTED
    }
    grows = [name for name, (before, after) in counts.items() if after > before]
    if slopes["private"]["slope"] > most:
        grows.insert(0, "private")
    return {
        "mib_an_hour": slopes,
        "bound": most,
        "second_and_last_quarter": counts,
        "grows": grows,
        "flat": not grows,
    }
