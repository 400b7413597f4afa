"""Preferences as a folder of parts, one for every block of users, that many processes can fill."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from tqdm.auto import tqdm

from pdrec_fast.errors import CheckpointError
from pdrec_fast.files import check_there
from pdrec_fast.fitting.bundle import save_tensors
from pdrec_fast.part_jobs import (
    JOB,
    do_parts,
    n_missing,
    read_job,
    remove_leftovers,
    reserve,
    whole_part,
)

KIND = "preferences in parts"
_CHECKSUM = "checksum"
Arrays = dict[str, np.ndarray]  # of the users of a part; indptr begins at 0


def write_parts(
    folder: Path,
    description: dict[str, Any],
    infer: Callable[[slice], Arrays],
    rank: int | None,
    world: int | None,
    progress: bool,
) -> bool:
    """Write the parts that are not there; see ``part_jobs``.

    Args:
        description: JSON values that say what is inferred, with ``n_users`` and ``part_size``.
        infer: the arrays of some users.

    Returns:
        Whether all parts are there.
    """
    reserve(folder, {"kind": KIND} | description)
    parts = _parts(folder, description)
    size, n_users = description["part_size"], description["n_users"]

    def write(number: int) -> None:
        arrays = infer(slice(number * size, min((number + 1) * size, n_users)))
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        with whole_part(parts[number]) as fresh:
            save_tensors(tensors, fresh, {_CHECKSUM: _checksum(arrays)})

    n_own = len(parts[rank or 0 :: world or 1])
    with tqdm(total=n_own, desc="preferences", unit="part", disable=not progress) as bar:
        do_parts(parts, write, rank, world, bar)
    check_there(folder)
    if n_missing(parts):
        return False
    remove_leftovers(folder)
    return True


def holds_parts(folder: Path) -> bool:
    """Whether preferences in parts lie at a path, finished or not."""
    return (folder / JOB).is_file()


def read_parts(folder: Path, *, verify: bool) -> tuple[dict[str, Any], list[Arrays]]:
    """(description, the arrays of every part, mapped from the files and read when used).

    Args:
        verify: read everything once, and compare checksums.

    Raises:
        CheckpointError: parts are missing or damaged, or of something else.
    """
    description = read_job(folder)
    if description.get("kind") != KIND:
        raise CheckpointError(f"{folder}: holds no preferences")
    for name, least in (("n_users", 1), ("part_size", 1)):
        if not isinstance(description[name], int) or description[name] < least:
            raise CheckpointError(
                f"{folder / JOB}: damaged ({name} is {description[name]!r}); delete the folder, "
                "and give the command again"
            )
    there, n_parts = len(list(folder.glob("part-*.safetensors"))), _n_parts(description)
    if there >= n_parts:  # before names are made of whatever number a description has
        parts = _parts(folder, description)
        there = n_parts - n_missing(parts)
    if there < n_parts:
        raise CheckpointError(
            f"{folder}: {there} of {n_parts} parts are there; give the command that writes them "
            "again"
        )
    return description, [_read(part, verify) for part in parts]


def _parts(folder: Path, description: dict[str, Any]) -> list[Path]:
    return [folder / f"part-{number:06d}.safetensors" for number in range(_n_parts(description))]


def _n_parts(description: dict[str, Any]) -> int:
    n_parts: int = -(-description["n_users"] // description["part_size"])
    return n_parts


def _read(part: Path, verify: bool) -> Arrays:
    if part.is_symlink():
        raise CheckpointError(f"{part}: is a link, and parts are files; copy them into the folder")
    try:
        with safe_open(part, "pt") as file:
            expected = (file.metadata() or {}).get(_CHECKSUM)
        # By a mapping of its own, so that what was read to verify it does not stay.
        if not verify or _checksum(_mapped(part)) == expected:
            return _mapped(part)
    except SafetensorError:
        pass
    raise CheckpointError(f"{part}: damaged; delete it, and give the command that wrote it again")


def _mapped(part: Path) -> Arrays:
    return {name: tensor.numpy() for name, tensor in load_file(part).items()}


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
