"""What must hold whatever the bytes: refused in one line, or read without a loss, and in time."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

Run = Callable[[bytes, Path], None]
"""Content of a file, and an empty folder to work in; returns where it is read or refused well."""
BY_THE_CLOCK = 60.0


class BrokenError(Exception):
    """A property that does not hold."""


class Hang(BaseException):
    """Far beyond the time allowed; no handler of the code under test stops it."""


@dataclass(frozen=True)
class Target:
    """What reads the bytes, and valid ones to begin with: the corpus.

    Attributes:
        also: dear checks, done after ``run`` in the folder that it leaves, for a share of the
            inputs.
        weight: its share of a campaign; less for what is slow.
        at_once: the most inputs for one process, where a library loses memory by each.
    """

    run: Run
    seeds: Callable[[], tuple[bytes, ...]]
    also: Run | None = None
    weight: int = 4
    at_once: int | None = None


@contextmanager
def refused_as(*kinds: type[Exception]) -> Iterator[None]:
    """Lets errors pass that are of these kinds and tell the user in one line; every other one is
    raised as ``BrokenError``."""
    try:
        yield
    except BrokenError:
        raise
    except kinds as error:
        require(len(str(error).splitlines()) == 1, f"no message of one line: {str(error)!r}")
        if isinstance(error, UnicodeError):
            raise BrokenError(f"{type(error).__name__} names no place: {error}") from error
    except Exception as error:
        raise BrokenError(f"{type(error).__name__}: {error}") from error


def require(holds: bool, message: str) -> None:
    """Raise ``BrokenError`` where something does not hold."""
    if not holds:
        raise BrokenError(message)


@contextmanager
def warned() -> Iterator[list[str]]:
    """Collects the texts of warnings."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    found.extend(str(warning.message) for warning in caught)


@contextmanager
def in_time(n_bytes: int) -> Iterator[None]:
    """A second a kilobyte of the processor's time, and for short inputs one second; by the clock
    ``BY_THE_CLOCK`` times as much, as others may use the machine."""
    limit = max(1.0, n_bytes / 1024)

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"not done after {BY_THE_CLOCK * limit:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, BY_THE_CLOCK * limit)
    begin = time.process_time()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    taken = time.process_time() - begin
    require(taken <= limit, f"{taken:.1f} s for {n_bytes} bytes")


def same(found: Mapping[str, Any], expected: Mapping[str, Any], words: str) -> None:
    """Raise ``BrokenError`` where two readings differ, with the first difference."""
    for name, value in expected.items():
        require(found[name] == value, f"{words}: {name} {found[name]!r}, not {value!r}"[:2000])
