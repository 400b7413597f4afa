"""Files and directories that a reader sees whole or not at all; where two JSON values differ."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pdrec_fast.errors import CheckpointError, PDRecError, WriteError

Read = TypeVar("Read")

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

_NO_SPACE = "no space is left there; make room and do the same again: a run continues where it was"
_BRING_BACK = "once it is back, do the same again: a run continues where it was"
_NAMES = ("EIO", "ESTALE", "ENOTCONN", "ENODEV", "ENXIO", "ETIMEDOUT", "EHOSTDOWN", "EREMOTEIO")
_UNREACHABLE = [getattr(errno, name) for name in _NAMES if hasattr(errno, name)]
_REASONS = {
    errno.ENOSPC: _NO_SPACE,
    getattr(errno, "EDQUOT", errno.ENOSPC): _NO_SPACE.replace("space", "quota"),
    errno.EFBIG: "a file would be larger than is allowed here (ulimit -f); raise the limit",
    errno.EROFS: "the file system is read-only; make it writable, or choose another place",
    errno.EACCES: "there is no permission to write there; allow it, or choose another place",
    errno.EPERM: "there is no permission to write there; allow it, or choose another place",
    errno.ENOENT: "its folder is gone; " + _BRING_BACK,
    **dict.fromkeys(_UNREACHABLE, "the disk or its server does not answer; " + _BRING_BACK),
    errno.ENOTDIR: "a part of that path is a file, not a directory; choose another place",
    errno.EEXIST: "a file lies where a directory is needed; choose another place",
    errno.ELOOP: "a link leads out of the folder, or to itself; put a folder or file in its place",
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
}


def differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, e.g. ``["config.pdrec.lr (0.01 there, 0.1 here)"]``."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return [f"{name} ({found} there, {wanted} here)"] if found != wanted else []
    keys = dict.fromkeys([*found, *wanted])
    return [
        line
        for key in keys
        for line in differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
    ]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes ``path``: an OSError becomes a WriteError that names it, in one line.

    Raises:
        WriteError: that is not possible, or ``path`` lies in a folder that ``same_place`` no longer
            finds where it was.
    """
    try:
        _check_places(path)
        yield
    except WriteError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        reason = _REASONS.get(error.errno or 0, f"{why}; what was saved there before is kept")
        failure = WriteError(f"{path}: cannot be written: {reason}")
        failure.errno = error.errno
        raise failure from None


_places: dict[Path, tuple[int, int]] = {}  # of ``same_place``: device and inode


@contextmanager
def same_place(folder: Path) -> Iterator[None]:
    """Within it nothing is written below ``folder`` by a link that leads out of it, nor once
    another folder lies at its path, or none: after its file system was unmounted, files would be
    made on the one beneath, and hidden by the next mount."""
    folder = Path(os.path.abspath(folder))
    _places[folder] = _identity(folder)
    try:
        yield
    finally:
        del _places[folder]


def _check_places(path: Path) -> None:
    path = Path(os.path.abspath(path))
    for folder, identity in _places.copy().items():
        if folder not in (path, *path.parents):
            continue
        if _identity(folder) != identity:
            raise FileNotFoundError(errno.ENOENT, "another folder lies there", str(folder))
        if not path.resolve().is_relative_to(folder.resolve()):
            raise OSError(errno.ELOOP, "a link there leads out of its folder", str(path))


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def check_there(path: Path) -> None:
    """Raises WriteError unless what was written to ``path``, or is left of it, is there."""
    with writing(path):
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "it is gone", str(path))


def make_directory(path: Path) -> None:
    """Make a directory and its parents where they are not there.

    Raises:
        WriteError: that is not possible.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def read_json(path: Path) -> Any:
    """The value that a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or nested more deeply than Python reads.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file that a reader sees whole or not at all; see ``write_text``."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file that a reader sees whole or not at all.

    Raises:
        WriteError: that is not possible; a file that was there is kept.
    """
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place when all is written.

    Raises:
        WriteError: that is not possible; a file that was there is kept.
    """
    fresh = path.with_name(f".{path.name}.new")
    with writing(path):
        try:
            if fresh.is_symlink():
                fresh.unlink()  # or it would lead what is written elsewhere
            yield fresh
            fresh.replace(path)
        except BaseException:
            with suppress(OSError):  # half of a file takes space and tells nothing
                fresh.unlink(missing_ok=True)
            raise


@contextmanager
def whole_directory(
    path: str | Path, kind: str, marker: str, is_part: Callable[[Path], bool]
) -> Iterator[Path]:
    """A directory to fill, which becomes ``path`` when the block ends without an error.

    It is written beside its target and renamed, so that a reader sees the old one or the new one.

    Args:
        path: created with its parents; one of the same kind that lies there is replaced.
        kind: what the directory is, for errors.
        marker: the file that every finished directory of this kind has.
        is_part: whether a file of an existing directory belongs to this kind.

    Raises:
        CheckpointError: something else lies at ``path``, or another process is writing it.
        WriteError: no space, no permission; what lies there is kept.
    """
    given, path = Path(path), Path(path).resolve()
    stale = _beside(path, "old")
    with writing(given):
        fresh = _begun(path, kind, marker, is_part)
        try:
            with _claimed(fresh, path):
                yield fresh
                for written in (*fresh.iterdir(), fresh):
                    sync(written)
                if path.exists():
                    os.rename(path, stale)
                os.rename(fresh, path)
                sync(path.parent)
        except (Exception, KeyboardInterrupt):
            with suppress(OSError):  # leave what was there before, and nothing else
                shutil.rmtree(fresh, ignore_errors=True)
                if not path.exists() and (stale / marker).is_file():
                    os.rename(stale, path)
            raise
        shutil.rmtree(stale, ignore_errors=True)


def _begun(path: Path, kind: str, marker: str, is_part: Callable[[Path], bool]) -> Path:
    """The empty directory beside ``path`` that is to be filled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh, stale = _beside(path, "new"), _beside(path, "old")
    if not path.exists() and (stale / marker).is_file():
        os.rename(stale, path)  # the last write was killed between its two renames
    if path.exists() and not (path.is_dir() and all(is_part(file) for file in path.iterdir())):
        raise CheckpointError(
            f"{path}: holds files that no saved {kind} consists of and will not be replaced; "
            "choose another directory"
        )
    if fresh.exists():
        with _claimed(fresh, path):
            shutil.rmtree(fresh)
    if stale.exists():
        shutil.rmtree(stale)
    fresh.mkdir()
    return fresh


@contextmanager
def _claimed(fresh: Path, path: Path) -> Iterator[None]:
    """Within it no other process takes what is being written for a leftover.

    Raises:
        CheckpointError: another process is writing there.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"{path}: another process is writing it; wait until it has ended, or write "
                "elsewhere"
            ) from None
        except OSError:
            pass  # a file system without such locks: as before there were any
        yield
    finally:
        os.close(descriptor)


def remove_directory(path: str | Path) -> None:
    """Remove what ``whole_directory`` wrote, and what a killed write or removal left beside it."""
    shutil.rmtree(path, ignore_errors=True)
    for suffix in ("new", "old"):
        shutil.rmtree(_beside(Path(path).resolve(), suffix), ignore_errors=True)


def remove_leftovers(path: str | Path) -> None:
    """Remove what a killed write left beside what ``whole_directory`` wrote."""
    if Path(path).exists():  # else what lies beside it takes its place, see ``current_directory``
        for suffix in ("new", "old"):
            shutil.rmtree(_beside(Path(path).resolve(), suffix), ignore_errors=True)


def current_directory(path: str | Path, marker: str) -> Path:
    """Where what ``whole_directory`` wrote to ``path`` lies: beside it after a swap that was killed
    half-way."""
    path = Path(path).resolve()
    stale = _beside(path, "old")
    return stale if not path.exists() and (stale / marker).is_file() else path


def read_current(path: str | Path, marker: str, read: Callable[[Path], Read]) -> Read:
    """What ``read`` makes of what ``whole_directory`` wrote to ``path``: of one and the same. A
    reader opens one file after the other, and begins again where another directory has taken the
    place of the one that it began with."""
    while True:
        found = current_directory(path, marker)
        begun = _version(found)
        try:
            read_back = read(found)
        except (PDRecError, OSError):
            if begun == _version(current_directory(path, marker)):
                raise
        else:
            if begun == _version(current_directory(path, marker)):
                return read_back


def _version(folder: Path) -> tuple[int, ...] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def checksum(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{suffix}")


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, would outlive a loss of power."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no directories
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
