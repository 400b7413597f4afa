"""Bundles: a directory of safetensors files and one JSON manifest with a checksum for each.

A bundle is written beside its target and renamed, so a reader sees the old one or the new one,
never a half-written one. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pdrec_fast.errors import CheckpointError
from pdrec_fast.files import writing

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
        WriteError: no space, no permission; a bundle that lies there is kept.
    """
    path = Path(path).resolve()
    with writing(path):
        try:
            _write(path, kind, meta, files)
        except (Exception, KeyboardInterrupt):
            _tidy(path)
            raise


def _write(path: Path, kind: str, meta: Mapping[str, Any], files: Files) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh, stale = _beside(path, "new"), _beside(path, "old")
    if not path.exists() and _is_finished(stale):
        os.rename(stale, path)  # the last write was killed between its two renames
    if path.exists() and not _is_replaceable(path):
        raise CheckpointError(
            f"{path}: holds files that no saved {kind} consists of and will not be replaced; "
            "choose another directory"
        )
    for leftover in (fresh, stale):
        if leftover.exists():
            shutil.rmtree(leftover)
    fresh.mkdir()
    checksums = {}
    for name, tensors in files.items():
        target = fresh / f"{name}.safetensors"
        _save_tensors({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, target)
        checksums[target.name] = _checksum(target)
    # Through JSON and back, so that the checksum is of what a reader will see.
    meta = json.loads(json.dumps(meta))
    manifest = {"format": FORMAT, "kind": kind, "files": checksums, "meta": meta}
    manifest["checksum"] = _manifest_checksum(manifest)
    (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for written in (*fresh.iterdir(), fresh):
        _sync(written)
    if path.exists():
        os.rename(path, stale)
    os.rename(fresh, path)
    _sync(path.parent)
    shutil.rmtree(stale, ignore_errors=True)


def _save_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    try:
        save_file(tensors, file)
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(file)) from None


def _tidy(path: Path) -> None:
    """After a write that failed: put the bundle that was moved aside back, leave nothing else."""
    stale = _beside(path, "old")
    with suppress(OSError):
        shutil.rmtree(_beside(path, "new"), ignore_errors=True)
        if not path.exists() and _is_finished(stale):
            os.rename(stale, path)


def read_bundle(path: str | Path, kind: str) -> Contents:
    """Read a bundle back as ``(meta, files)``; every checksum is verified.

    Raises:
        CheckpointError: missing, damaged, or of another kind.
    """
    path = _current(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        stored_kind, checksums = manifest["kind"], manifest["files"]
        stated = manifest.pop("checksum")
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: no {kind} is saved here ({MANIFEST} not found)") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / MANIFEST}: damaged ({error})") from None
    if stated != _manifest_checksum(manifest):
        raise CheckpointError(f"{path / MANIFEST}: damaged (its checksum does not match)")
    if stored_kind != kind:
        raise CheckpointError(f"{path}: holds a {stored_kind}, not a {kind}")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: format {manifest['format']}, this version reads {FORMAT}; save it again"
        )
    files = {}
    for name, expected in checksums.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing")
        if _checksum(file) != expected:
            raise CheckpointError(f"{file}: damaged (its checksum does not match the manifest)")
        files[file.stem] = load_file(file)
    return manifest["meta"], files


def bundle_exists(path: str | Path) -> bool:
    """True when a finished bundle lies at ``path``."""
    return _is_finished(_current(path))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{suffix}")


def _current(path: str | Path) -> Path:
    """Where the bundle of ``path`` lies: beside it after a swap that was killed half-way."""
    path = Path(path).resolve()
    stale = _beside(path, "old")
    return stale if not path.exists() and _is_finished(stale) else path


def _is_finished(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def _is_replaceable(path: Path) -> bool:
    return path.is_dir() and all(
        file.name == MANIFEST or file.suffix == ".safetensors" for file in path.iterdir()
    )


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _manifest_checksum(manifest: Mapping[str, Any]) -> str:
    text = json.dumps({k: v for k, v in manifest.items() if k != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no directories
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
