"""Bundles: a directory of safetensors files and one JSON manifest with a checksum for each.

A bundle is written beside its target and renamed, so a reader sees the old one or the new one,
never a half-written one. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pdrec_fast.errors import CheckpointError, NonFiniteLossError, one_line
from pdrec_fast.files import (
    checksum,
    current_directory,
    read_current,
    read_json,
    whole_directory,
)
from pdrec_fast.fitting.finite import largest

if TYPE_CHECKING:
    from typing_extensions import Self

Files = dict[str, dict[str, torch.Tensor]]  # tensors by file and name
Contents = tuple[dict[str, Any], Files]  # of a bundle: JSON values, and the tensors
MANIFEST = "manifest.json"
FORMAT = 1


def write_bundle(
    path: str | Path,
    kind: str,
    meta: Mapping[str, Any],
    files: Files,
) -> None:
    """Write ``files`` (name -> tensors) and ``meta`` (JSON values) to the directory ``path``.

    Args:
        path: created with its parents; a bundle that lies there is replaced.
        kind: what the bundle is, checked on reading.

    Raises:
        CheckpointError: something other than a bundle lies at ``path``.
        NonFiniteLossError: a tensor holds NaN; a bundle that lies there is kept.
        WriteError: no space, no permission; a bundle that lies there is kept.
    """
    if nan := _first_nan(files):
        raise NonFiniteLossError(
            f"{path}: {nan} holds NaN, so that this {kind} is not saved; what was saved there "
            "before is kept: train anew, with a lower learning rate"
        )
    with whole_directory(path, kind, MANIFEST, _is_part) as fresh:
        checksums = {}
        for name, tensors in files.items():
            target = fresh / f"{name}.safetensors"
            save_tensors(tensors, target)
            checksums[target.name] = checksum(target)
        # Through JSON and back, so that the checksum is of what a reader will see.
        meta = json.loads(json.dumps(meta))
        manifest = {"format": FORMAT, "kind": kind, "files": checksums, "meta": meta}
        manifest["checksum"] = _manifest_checksum(manifest)
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def save_tensors(
    tensors: Mapping[str, torch.Tensor], file: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write one safetensors file; raises OSError where that is not possible."""
    try:
        on_host = {key: t.detach().cpu().contiguous() for key, t in tensors.items()}
        save_file(on_host, file, metadata)
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(file)) from None


def digest_of(contents: Contents) -> str:
    """16 hexadecimal digits that change with anything that a model saves."""
    meta, files = contents
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for file, tensors in sorted(files.items()):
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{file} {name}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def read_bundle(path: str | Path, kind: str) -> Contents:
    """Read a bundle back as ``(meta, files)``; every checksum is verified.

    Raises:
        CheckpointError: missing, damaged, or of another kind.
    """
    return read_current(path, MANIFEST, lambda found: _read_bundle(found, kind))


def _read_bundle(path: Path, kind: str) -> Contents:
    try:
        manifest = read_json(path / MANIFEST)
        stored_kind, checksums = manifest["kind"], dict(manifest["files"])
        stored_format, meta = manifest["format"], manifest["meta"]
        stated = manifest.pop("checksum")
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: no {kind} is saved here ({MANIFEST} not found)") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / MANIFEST}: damaged ({error})") from None
    if stated != _manifest_checksum(manifest):
        raise CheckpointError(f"{path / MANIFEST}: damaged (its checksum does not match)")
    if stored_kind != kind:
        raise CheckpointError(f"{path}: holds a {stored_kind}, not a {kind}")
    if stored_format != FORMAT:
        raise CheckpointError(
            f"{path}: format {stored_format}, this version reads {FORMAT}; save it again"
        )
    files = {}
    for name, expected in checksums.items():
        file = path / name
        # A file may be a link, as caches of models and DVC make them: its checksum is as promised.
        if file.parent != path or file.name in ("", ".."):
            raise CheckpointError(
                f"{path / MANIFEST}: names {name!r}, which is no file of this folder; take the "
                f"{kind} anew from where it was saved"
            )
        if not os.path.isfile(file):  # pathlib raises for names that are too long
            raise CheckpointError(f"{file}: missing")
        if checksum(file) != expected:
            raise CheckpointError(f"{file}: damaged (its checksum does not match the manifest)")
        try:
            files[file.stem] = load_file(file)
        except (SafetensorError, ValueError, OSError) as error:
            raise CheckpointError(f"{file}: damaged before it was saved ({error})") from None
    if nan := _first_nan(files):
        raise CheckpointError(f"{path}: {nan} holds NaN; whoever saved it must train it anew")
    return meta, files


@contextmanager
def making(path: str | Path) -> Iterator[None]:
    """Around what makes a model or preferences of what was read: what that lacks is told with its
    place.

    Raises:
        CheckpointError: they cannot be made of it.
    """
    try:
        yield
    except (KeyError, IndexError, AttributeError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: cannot be put together from what it holds ({type(error).__name__}: "
            f"{one_line(error)}); save it again"
        ) from error


def bundle_exists(path: str | Path) -> bool:
    """True when a finished bundle lies at ``path``."""
    return (current_directory(path, MANIFEST) / MANIFEST).is_file()


def _is_part(file: Path) -> bool:
    return file.name == MANIFEST or file.suffix == ".safetensors"


def _first_nan(files: Mapping[str, Mapping[str, torch.Tensor]]) -> str:
    """File and name of a tensor that holds NaN; empty where none does."""
    found = (
        f"{name} in {file}"
        for file, tensors in files.items()
        for name, tensor in tensors.items()
        if math.isnan(largest(tensor))
    )
    return next(found, "")


def _manifest_checksum(manifest: Mapping[str, Any]) -> str:
    text = json.dumps({k: v for k, v in manifest.items() if k != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class OnCPU:
    """``save`` and ``load`` of a scorer whose ``contents`` are all that it is, on the CPU whatever
    the device."""

    KIND: str

    def contents(self) -> Contents:
        """What ``save`` writes, and the bundle of a model that this guides."""
        raise NotImplementedError

    @classmethod
    def from_contents(
        cls, contents: Contents, path: str | Path, *, device: str | torch.device = "cpu"
    ) -> Self:
        """The scorer of ``contents``; ``path`` is named in errors."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the scorer to the directory ``path`` (see ``fitting.bundle``).

        Raises:
            CheckpointError: something other than a bundle lies at ``path``.
            NotFittedError: not fitted.
        """
        write_bundle(path, self.KIND, *self.contents())

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: missing, damaged, or of another kind.
        """
        with making(path):
            return cls.from_contents(read_bundle(path, cls.KIND), path, device=device)
