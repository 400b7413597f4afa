"""Jobs in parts, which any number of processes on any number of machines share through one folder.

A part is a file, written whole or not at all and skipped where it is there. A process claims a part
before it begins: it makes a file beside it and renews that file's time while it works. A claim
whose process is gone, or whose time stands still, is taken over. Claims save work, nothing depends
on them: a part has the same bytes whoever writes it, so that two may write it at once.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from tqdm.auto import tqdm

from pdrec_fast.errors import CheckpointError
from pdrec_fast.files import differences, make_directory, read_json, sync, write_json, writing

logger = logging.getLogger("pdrec_fast")
JOB = "job.json"
_CLAIM = ".claim"
_BEAT_SECONDS = 10.0
# Longer than a network file system may show an old time of a file.
_STILL_SECONDS = 120.0
_POLL_SECONDS = 0.2
_THIS_PROCESS = uuid4().hex  # a pod that begins again has its former name and process ids
# What says (rank, number of ranks): of torchrun, and of the tasks that Slurm's srun starts. The
# script that sbatch starts is no such task, but knows SLURM_NTASKS too.
_VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))


def rank_here(rank: int | None, world: int | None) -> tuple[int, int] | tuple[None, None]:
    """(rank, number of ranks): those given, else the environment's, else none.

    Raises:
        ValueError: one without the other, or a rank outside ``0 .. world - 1``.
    """
    for first, second in _VARIABLES:
        if rank is None and world is None and {first, second} <= os.environ.keys():
            texts = os.environ[first], os.environ[second]
            if not all(text.isdecimal() for text in texts):
                raise ValueError(
                    f"{first}={texts[0]!r} and {second}={texts[1]!r} in the environment must be "
                    "numbers: unset them, or give --rank and --world"
                )
            rank, world = map(int, texts)
    check_rank(rank, world)
    return (None, None) if rank is None or world is None else (rank, world)


def check_rank(rank: int | None, world: int | None) -> None:
    """Raises ValueError unless both are None or ``0 <= rank < world``."""
    if rank is None and world is None:
        return
    if rank is None or world is None or not 0 <= rank < world:
        raise ValueError(
            f"rank and world must be given together, 0 <= rank < world; got {rank=}, {world=}"
        )


def reserve(folder: Path, description: Mapping[str, Any]) -> None:
    """Make the folder of a job, or find that it is this job's.

    Args:
        description: JSON values that say what the parts are, kept as ``job.json``.

    Raises:
        CheckpointError: parts of another job, or something else, lie there.
        WriteError: it cannot be made.
    """
    marker, wanted = folder / JOB, json.loads(json.dumps(description, default=_of_numpy))
    if folder.exists() and not (folder.is_dir() and (marker.exists() or _is_empty(folder))):
        raise CheckpointError(f"{folder}: exists and holds no such job; choose another place")
    claims = _Claims()
    while not marker.exists():
        make_directory(folder)
        with claims.claimed(marker) as mine:
            if mine and not marker.exists():
                write_json(marker, wanted)
        if not mine:
            time.sleep(_POLL_SECONDS)
    try:
        unlike = differences(read_job(folder), wanted)
    except FileNotFoundError:  # others have just ended the job; this call begins it again
        reserve(folder, description)
        return
    if unlike:
        raise CheckpointError(
            f"{folder}: parts of another job, with other {', '.join(unlike)}; delete the folder, "
            "or write elsewhere"
        )


def _of_numpy(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is no JSON value")


def read_job(folder: Path) -> dict[str, Any]:
    """The description of the job whose parts lie in a folder.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        found: dict[str, Any] = read_json(folder / JOB)
    except ValueError as error:
        raise CheckpointError(
            f"{folder / JOB}: damaged ({error}); delete the folder, and give the command again"
        ) from None
    return found


def do_parts(
    parts: Sequence[Path],
    write: Callable[[int], None],
    rank: int | None,
    world: int | None,
    bar: tqdm[Any] | None = None,
) -> None:
    """Write the parts that are not there: those of a rank, or all together with other processes.

    Without ranks this waits until all parts are there, to take over those of a process that dies.

    Args:
        parts: files of one folder that ``reserve`` made.
        write: writes ``parts[number]``, within ``whole_part``.
        rank, world: only every ``world``-th part, from ``rank`` on; None for all.
        bar: told of the parts that are there.
    """
    left = list(range(len(parts)))[rank or 0 :: world or 1]
    claims, said = _Claims(), False
    while left and parts[0].parent.exists():  # without it the others have joined the parts
        claimed = False
        for number in left:
            if parts[number].exists():
                continue
            with claims.claimed(parts[number]) as mine:
                if mine and not parts[number].exists():
                    write(number)
            claimed |= mine
            if mine and bar is not None:
                bar.update()
        still = [number for number in left if not parts[number].exists()]
        if bar is not None:
            bar.update(bar.total - len(still) - bar.n)
        left = still
        if left and not claimed:
            if not said:
                logger.info("waiting for %d parts that other processes have claimed", len(left))
            said = True
            time.sleep(_POLL_SECONDS)


def join_once(parts: Sequence[Path], join: Callable[[], None]) -> bool:
    """Let one process join the parts, the last to be done with its own; ``join`` removes the
    folder, or gives it another name.

    Returns:
        Whether the parts are joined, by this process or another; False where some are not there.
    """
    folder, claims = parts[0].parent, _Claims()
    while folder.exists():
        # The parts are counted by one at a time: a process that writes the last one then comes
        # after who missed it.
        with claims.claimed(folder / "join") as mine:
            if mine:
                if n_missing(parts):
                    return False
                join()
                return True
        time.sleep(_POLL_SECONDS)
    return True


def n_missing(parts: Sequence[Path]) -> int:
    """How many parts are not there."""
    return sum(not part.exists() for part in parts)


@contextmanager
def whole_part(part: Path) -> Iterator[Path]:
    """A path to write to, of this process alone, which becomes ``part`` at the end of the block.

    Raises:
        WriteError: that is not possible.
    """
    fresh = part.with_name(f".{part.name}.{uuid4().hex[:8]}.new")
    with writing(part):
        try:
            yield fresh
            sync(fresh)
            os.replace(fresh, part)
        except FileNotFoundError:  # whoever took it over has written it, and removed leftovers
            if part.parent.exists() and not part.exists():
                raise
        finally:
            fresh.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed had begun to write, and their claims."""
    for file in (*folder.glob(".*.new"), *folder.glob(f"*{_CLAIM}")):
        file.unlink(missing_ok=True)


class _Claims:
    """Claims of this process, and when it first saw those of others as they are."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, float]] = {}

    @contextmanager
    def claimed(self, part: Path) -> Iterator[bool]:
        """Whether this process may write ``part``, which it then has claimed within the block."""
        claim = part.with_name(part.name + _CLAIM)
        if not self._take(claim):
            yield False
            return
        done = threading.Event()
        beats = threading.Thread(target=_renew, args=(claim, done), daemon=True)
        beats.start()
        try:
            yield True
        finally:
            done.set()
            beats.join()
            claim.unlink(missing_ok=True)

    def _take(self, claim: Path) -> bool:
        for _ in range(2):
            try:
                with claim.open("x") as stream:
                    stream.write(f"{socket.gethostname()} {os.getpid()} {_THIS_PROCESS}\n")
                return True
            except FileNotFoundError:  # the folder is gone: all is done
                return False
            except FileExistsError:
                if not self._abandoned(claim):
                    return False
                claim.unlink(missing_ok=True)
        return False

    def _abandoned(self, claim: Path) -> bool:
        try:
            owner, beat = claim.read_text().split(), claim.stat().st_mtime_ns
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            return False  # given back just now
        if len(owner) == 3 and _is_gone(*owner):
            return True
        # By this machine's clock alone: those of others, and the file server's, may differ.
        now = time.monotonic()
        seen, since = self._seen.get(claim, (None, now))
        if seen != beat:
            self._seen[claim] = beat, now
            return False
        return now - since > _STILL_SECONDS


def _is_gone(host: str, process: str, token: str) -> bool:
    """Whether the process that made a claim has ended; False where that is not known."""
    if host != socket.gethostname() or os.name == "nt":  # there, os.kill would end it
        return False
    if int(process) == os.getpid():
        return token != _THIS_PROCESS
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return False


def _renew(claim: Path, done: threading.Event) -> None:
    while not done.wait(_BEAT_SECONDS):
        try:
            os.utime(claim)
        except OSError:  # taken over, or the folder is gone; or for a moment no file server
            continue


def _is_empty(folder: Path) -> bool:
    return all(file.name.endswith((_CLAIM, ".new")) for file in folder.iterdir())
