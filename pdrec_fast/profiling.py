"""Where the time goes: named ranges for torch's profiler, and rates per stage.

Work is done in units (an epoch, a block of users, an evaluation) of a few stages. While a
``Profile`` is active every unit is timed, on a GPU up to its end there, and the first two units of
each stage are traced. Without one nothing here costs more than a look at a variable.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from pdrec_fast.files import make_directory, write_json, writing

_TRACED_UNITS = 2  # the first shows what warming up costs, the second what a unit does
_PREFIX = "pdrec_fast::"

_active: Profile | None = None


@dataclass
class Stage:
    """What the units of one stage took and did.

    Attributes:
        units: how many; seconds: of all of them.
        users, tokens: read; items: scored, one for each user or token and item.
    """

    units: int = 0
    seconds: float = 0.0
    users: int = 0
    tokens: int = 0
    items: int = 0


class Profile:
    """Times stages and writes a trace of each to a directory, for as long as it is entered.

    Args:
        folder: created; gets ``<stage>.trace.json.gz`` (for Perfetto or chrome://tracing) and, at
            the end, ``profile.json``. Those of an earlier profile are replaced.

    Raises:
        RuntimeError: another profile is active.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.stages: dict[str, Stage] = {}
        self.ranges: dict[str, dict[str, float]] = {}
        self._tracers: dict[str, Any] = {}
        self._gpu = torch.cuda.is_available()

    def __enter__(self) -> Profile:
        global _active
        if _active is not None:
            raise RuntimeError("a profile is active already: there can be one at a time")
        make_directory(self.folder)
        _active = self
        return self

    def __exit__(self, *_: object) -> None:
        global _active
        _active = None
        found = {"stages": {name: asdict(stage) for name, stage in self.stages.items()}}
        write_json(self.folder / "profile.json", found | {"traced_ranges": self.ranges})

    @contextmanager
    def measured(self, name: str, counts: dict[str, int]) -> Iterator[None]:
        """Time one unit of a stage, and trace it if it is among the first."""
        stage = self.stages.setdefault(name, Stage())
        traced = stage.units < _TRACED_UNITS
        tracer = self._tracer() if traced else None
        with tracer or nullcontext():
            self._wait()
            started = time.perf_counter()
            with record_function(_PREFIX + name):
                yield
                self._wait()
            seconds = time.perf_counter() - started
        stage.units += 1
        stage.seconds += seconds
        for key, count in counts.items():
            setattr(stage, key, getattr(stage, key) + count)
        if tracer is not None:  # the later of the traced units replaces the earlier
            trace = self.folder / f"{name}.trace.json.gz"
            with writing(trace):
                tracer.export_chrome_trace(str(trace))
            self.ranges[name] = self._range_seconds(tracer)

    def table(self) -> str:
        """Rates and shares of every stage, and the shares of the named ranges within it."""
        total = sum(stage.seconds for stage in self.stages.values())
        if not total:
            return "nothing ran that could be profiled: every stage was finished before"
        rows = [["stage", "units", "seconds", "share", "users/s", "tokens/s", "items scored/s"]]
        for name, stage in self.stages.items():
            rates = (_rate(n, stage.seconds) for n in (stage.users, stage.tokens, stage.items))
            share = f"{stage.seconds / total:.0%}"
            rows.append([name, str(stage.units), f"{stage.seconds:.2f}", share, *rates])
            inside = dict(self.ranges[name])
            whole = inside.pop(name, 0.0) or sum(inside.values())
            for part, seconds in sorted(inside.items(), key=lambda item: -item[1]):
                rows.append([f"  {part}", "", f"{seconds:.3f}", f"{seconds / whole:.0%}"])
        widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
        lines = [
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=False))
            ).rstrip()
            for row in rows
        ]
        note = (
            "Indented: named ranges and operations of the stage's latest traced unit, and their "
            f"shares of it; some lie within others. Traces: {self.folder}"
        )
        return "\n".join([*lines, note])

    def _tracer(self) -> Any:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it prints at every start and stop
        activities = [ProfilerActivity.CPU]
        if self._gpu:
            activities.append(ProfilerActivity.CUDA)
        return profile(activities=activities)

    def _wait(self) -> None:
        if self._gpu:
            torch.cuda.synchronize()

    def _range_seconds(self, tracer: Any) -> dict[str, float]:
        """Seconds of each of our ranges: the longer of what host and device spent in it."""
        seconds: dict[str, float] = {}
        for event in tracer.key_averages():
            if event.key.startswith(_PREFIX):
                spent = max(event.cpu_time_total, getattr(event, "device_time_total", 0.0))
                name = event.key.removeprefix(_PREFIX)
                seconds[name] = max(seconds.get(name, 0.0), spent / 1e6)
        return seconds


def unit(stage: str, **counts: int) -> AbstractContextManager[None]:
    """One unit of a stage, which reads ``users`` and ``tokens`` and scores ``items``."""
    return nullcontext() if _active is None else _active.measured(stage, counts)


def span(name: str) -> AbstractContextManager[Any]:
    """A named range within a unit."""
    return nullcontext() if _active is None else record_function(_PREFIX + name)


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:,.0f}" if count else "-"
