"""Drives a target: by atheris where it is installed, else by seeded changes of its corpus."""

from __future__ import annotations

import random
import re
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.fuzz import configured, saved, tables, text
from bench.fuzz.mutate import TOKENS, mutated
from bench.fuzz.properties import Broken, Hang, Target, in_time

TARGETS: dict[str, Target] = text.TARGETS | tables.TARGETS | saved.TARGETS | configured.TARGETS
_GIB = 1 << 30


@dataclass(frozen=True)
class Found:
    """How often a target ran, and the inputs that broke a property, one for each message."""

    executions: int
    broken: dict[str, bytes]


def execute(target: Target, content: bytes) -> str | None:
    """Run a target once; returns what broke, if anything did."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with in_time(len(content)):
                target.run(content, Path(folder))
        except (Broken, Hang) as error:
            return str(error).replace(folder, "FOLDER")
    return None


def seeded(
    target: Target, seed: int, executions: int | None = None, seconds: float = float("inf")
) -> Found:
    """The corpus as it is, then changed ones until so many were run or so much time has passed."""
    seeds = target.seeds()
    draw = random.Random(seed)
    end = time.monotonic() + seconds
    broken: dict[str, bytes] = {}
    number = 0
    while (executions is None or number < executions) and time.monotonic() < end:
        content = seeds[number] if number < len(seeds) else mutated(seeds, draw)
        message = execute(target, content)
        if message is not None:
            broken.setdefault(_kind(message), content)
        number += 1
    return Found(number, broken)


def _kind(message: str) -> str:
    """Messages that differ by numbers and values alone are one."""
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'", "'...'", message))[:200]
