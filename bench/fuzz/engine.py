"""All targets, and how one is run: on one input, and on seeded changes of its corpus."""

from __future__ import annotations

import mmap
import os
import random
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.fuzz import configured, folders, saved, tables, text
from bench.fuzz.mutate import mutated
from bench.fuzz.properties import BrokenError, Hang, Target, in_time

TARGETS: dict[str, Target] = (
    text.TARGETS | tables.TARGETS | saved.TARGETS | configured.TARGETS | folders.TARGETS
)


def in_memory() -> str | None:
    """Where temporary folders take no disk; None where there is no such place."""
    place = "/dev/shm"
    return place if os.access(place, os.W_OK | os.X_OK) else None


def execute(
    target: Target, content: bytes, folder: Path | None = None, whole: bool = True
) -> str | None:
    """Run a target once; returns what broke, if anything did.

    Args:
        folder: empty, and emptied again; by default one of this call's own.
        whole: with the dear checks, too.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(dir=in_memory()) as place:
            return execute(target, content, Path(place), whole)
    try:
        with in_time(len(content)):
            target.run(content, folder)
            if whole and target.also is not None:
                target.also(content, folder)
    except (BrokenError, Hang) as error:
        return str(error).replace(str(folder), "FOLDER")
    finally:
        _empty(folder)
    return None


def _empty(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


class Last:
    """The input that runs, and how many ran before it, in a file that outlives the process.

    It is mapped into memory, so that keeping it takes no call of the system.
    """

    _SIZE = 1 << 22  # bytes; a mutated input has less than half of it

    def __init__(self, file: Path) -> None:
        with open(file, "wb+") as stream:
            stream.truncate(self._SIZE)
            self._bytes = mmap.mmap(stream.fileno(), self._SIZE)

    def keep(self, content: bytes, executions: int) -> None:
        content = content[: self._SIZE - 16]
        head = executions.to_bytes(8, "little") + len(content).to_bytes(8, "little")
        self._bytes[: 16 + len(content)] = head + content

    @staticmethod
    def read(file: Path) -> tuple[bytes, int]:
        """The input that was kept last, and the executions before it."""
        found = file.read_bytes()
        length = int.from_bytes(found[8:16], "little")
        return found[16 : 16 + length], int.from_bytes(found[:8], "little")


@dataclass
class Session:
    """Executions of one target, counted.

    Attributes:
        folder: see ``execute``.
        last: keeps every input before it is run, in case that the process ends by it.
        whole_every: the dear checks are done for one of so many inputs.
        broken: the first input for each kind of message.
    """

    target: Target
    folder: Path | None = None
    last: Last | None = None
    whole_every: int = 1
    executions: int = 0
    broken: dict[str, bytes] = field(default_factory=dict)

    def run(self, content: bytes) -> None:
        if self.last is not None:
            self.last.keep(content, self.executions)
        whole = self.executions % self.whole_every == 0
        message = execute(self.target, content, self.folder, whole)
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
