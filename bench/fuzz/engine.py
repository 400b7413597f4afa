"""All targets, and how one is run: on one input, and on seeded changes of its corpus."""

from __future__ import annotations

import random
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.fuzz import configured, saved, tables, text
from bench.fuzz.mutate import mutated
from bench.fuzz.properties import BrokenError, Hang, Target, in_time

TARGETS: dict[str, Target] = text.TARGETS | tables.TARGETS | saved.TARGETS | configured.TARGETS


def execute(target: Target, content: bytes) -> str | None:
    """Run a target once; returns what broke, if anything did."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with in_time(len(content)):
                target.run(content, Path(folder))
        except (BrokenError, Hang) as error:
            return str(error).replace(folder, "FOLDER")
    return None


@dataclass
class Session:
    """Executions of one target, counted.

    Attributes:
        last: file that holds every input before it is run, in case that the process ends by it.
        broken: the first input for each kind of message.
    """

    target: Target
    last: Path | None = None
    executions: int = 0
    broken: dict[str, bytes] = field(default_factory=dict)

    def run(self, content: bytes) -> None:
        if self.last is not None:
            self.last.write_bytes(content)
        message = execute(self.target, content)
        self.executions += 1
        if message is not None:
            self.broken.setdefault(_kind(message), content)

    def run_seeded(
        self, seed: int, executions: int | None = None, seconds: float = float("inf")
    ) -> None:
        """The corpus as it is, then changed inputs, until so many were run or so much time has
        passed."""
        seeds = self.target.seeds()
        draw = random.Random(seed)
        end = time.monotonic() + seconds
        for content in seeds:
            self.run(content)
        while (executions is None or self.executions < executions) and time.monotonic() < end:
            self.run(mutated(seeds, draw))


def _kind(message: str) -> str:
    """Messages that differ by numbers and quoted values alone are one."""
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'", "'...'", message))[:300]
