"""JSON and text files that a reader sees whole or not at all, and where two JSON values differ."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pdrec_fast.errors import WriteError

_NO_SPACE = "no space is left there; make room and do the same again: a run continues where it was"
_REASONS = {
    errno.ENOSPC: _NO_SPACE,
    getattr(errno, "EDQUOT", errno.ENOSPC): _NO_SPACE.replace("space", "quota"),
    errno.EFBIG: "a file would be larger than is allowed here (ulimit -f); raise the limit",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "there is no permission to write there; choose another place",
    errno.EPERM: "there is no permission to write there; choose another place",
    errno.ENOTDIR: "a part of that path is a file, not a directory; choose another place",
    errno.EEXIST: "a file lies where a directory is needed; choose another place",
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
    """Around what writes ``path``: an OSError becomes a WriteError that names it, in one line."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        reason = _REASONS.get(error.errno or 0, f"{why}; what was saved there before is kept")
        failure = WriteError(f"{path}: cannot be written: {reason}")
        failure.errno = error.errno
        raise failure from None


def make_directory(path: Path) -> None:
    """Make a directory and its parents where they are not there.

    Raises:
        WriteError: that is not possible.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


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
            yield fresh
            fresh.replace(path)
        except BaseException:
            if fresh.is_file():
                fresh.unlink()  # half of a file takes space and tells nothing
            raise
