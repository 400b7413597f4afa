"""A directory that one job at a time works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdrec_fast.errors import CheckpointError
from pdrec_fast.files import make_directory, same_place, writing

LOCK = ".lock"


@contextmanager
def sole_user(out: Path, kind: str) -> Iterator[None]:
    """Within it no other process takes ``out``, and nothing is written into another folder that
    has come to lie there.

    The lock is the system's own, on a file that stays: it ends with its process, however that ends.

    Args:
        out: made where it is not there.
        kind: what is done there, for errors.

    Raises:
        CheckpointError: another process is at work there.
        WriteError: the directory, or the lock's file, cannot be made.
    """
    # Where a system has no such locks, its import warns: of those who write alone.
    from filelock import FileLock, Timeout

    make_directory(out)
    lock = FileLock(out / LOCK)
    with writing(out / LOCK):
        try:
            lock.acquire(timeout=0)
        except Timeout:  # an OSError, too
            raise CheckpointError(
                f"{out}: another process is at work on this {kind}; wait until it has ended, or "
                "use another directory"
            ) from None
    try:
        with same_place(out):
            yield
    finally:
        lock.release()
