"""Bundles, training checkpoints and stores of which one file is not as it was written.

The first byte of an input chooses the file, the others are its content: so one model's file comes
into the place of another's, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

import pdrec_fast as pf
from bench.fuzz.properties import Target, refused_as, require, warned
from pdrec_fast.data import Interactions
from pdrec_fast.data.store import PartWriter, write_card, write_ids
from pdrec_fast.errors import CheckpointError, DataError, PDRecError
from pdrec_fast.files import checksum
from pdrec_fast.fitting.bundle import MANIFEST, digest_of, read_bundle
from pdrec_fast.fitting.loop import KIND as CHECKPOINT
from pdrec_fast.preferences.preferences import _ARRAYS


@dataclass(frozen=True)
class _Saved:
    """A folder as it was written."""

    files: dict[str, bytes]
    kind: str
    load: Callable[[Path], object]

    @cached_property
    def digest(self) -> str:
        """Of a bundle."""
        with tempfile.TemporaryDirectory() as sound:
            self.write(Path(sound))
            return digest_of(read_bundle(sound, self.kind))

    @property
    def names(self) -> list[str]:
        return sorted(self.files)

    def write(self, folder: Path) -> None:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def _saved_in(folder: Path, kind: str, load: Callable[[Path], object]) -> _Saved:
    return _Saved({file.name: file.read_bytes() for file in folder.iterdir()}, kind, load)


@cache
def _bundles() -> tuple[_Saved, ...]:
    """Two tiny models that train, two that only count, and a checkpoint."""
    data = pf.synthetic(n_users=12, n_items=10, seed=1)
    diffusion = pf.DiffusionConfig(hidden=(4,), epochs=1)
    options = {"width": 4, "blocks": 1, "heads": 1}
    with tempfile.TemporaryDirectory() as place, warned():
        folder = Path(place)
        models: dict[str, Any] = {
            "diffrec": pf.DiffRec(diffusion, device="cpu").fit(
                data, checkpoint=folder / "checkpoint", progress=False
            ),
            "pdrec": pf.PDRec(
                "sasrec",
                pf.PDRecConfig(modules=(), epochs=1),
                encoder_options=options,
                device="cpu",
            ).fit(data, progress=False),
            "item-knn": pf.ItemKNN().fit(data),
            "popularity": pf.Popularity().fit(data),
        }
        for name, model in models.items():
            model.save(folder / name)
        found = [
            _saved_in(folder / name, model.KIND, _loader(type(model)))
            for name, model in models.items()
        ]
        resumed = _saved_in(
            folder / "checkpoint", CHECKPOINT, lambda path: read_bundle(path, CHECKPOINT)
        )
    return (*found, resumed)


def _loader(kind: Any) -> Callable[[Path], object]:
    return lambda path: kind.load(path, device="cpu")


def _bundle_files() -> list[tuple[_Saved, str]]:
    return [(saved, name) for saved in _bundles() for name in saved.names]


def _bundle_seeds() -> tuple[bytes, ...]:
    files = _bundle_files()
    return tuple(bytes([n]) + saved.files[name] for n, (saved, name) in enumerate(files))


def _damaged_bundle(content: bytes, folder: Path, resealed: bool = False) -> tuple[_Saved, str]:
    """Write a bundle with one file of this content; which bundle, and which file."""
    files = _bundle_files()
    saved, name = files[content[0] % len(files) if content else 0]
    saved.write(folder)
    (folder / name).write_bytes(content[1:])
    if resealed:
        _seal(folder)
    return saved, name


def _bundle(content: bytes, folder: Path) -> None:
    """What is read is what was saved, or nothing."""
    saved, _ = _damaged_bundle(content, folder)
    with refused_as(CheckpointError):
        found = digest_of(read_bundle(folder, saved.kind))
        require(found == saved.digest, "another bundle than was saved")
        saved.load(folder)


def _seal(folder: Path) -> None:
    """Let the manifest have the checksums of the files as they are, where it still lists them."""
    manifest = folder / MANIFEST
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        for name in found["files"]:
            if os.path.isfile(folder / name):
                found["files"][name] = checksum(folder / name)
        found.pop("checksum", None)
        text = json.dumps(found, sort_keys=True)
        found["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
        return
    manifest.write_text(json.dumps(found), encoding="utf-8")


def _resealed(content: bytes, folder: Path) -> None:
    """A bundle that was damaged before its checksums were made is refused in one line, or loads."""
    saved, _ = _damaged_bundle(content, folder, resealed=True)
    with refused_as(PDRecError, ValueError, TypeError):
        saved.load(folder)


@cache
def _parts() -> _Saved:
    data = pf.synthetic(n_users=12, n_items=10, seed=1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "parts"
        pf.Preferences.infer_parts(
            pf.Popularity().fit(data), data, folder, top_m=2, n_draws=4, part_size=7, progress=False
        )
        return _saved_in(folder, "preferences", pf.Preferences.load)


@cache
def _sound_parts() -> pf.Preferences:
    with tempfile.TemporaryDirectory() as sound:
        _parts().write(Path(sound))
        return pf.Preferences.load(sound)


def _parts_seeds() -> tuple[bytes, ...]:
    return _numbered(_parts())


def _damaged_parts(content: bytes, folder: Path) -> None:
    """The preferences that were saved, or none."""
    saved = _parts()
    expected = _sound_parts()
    _with_one_file(saved, content, folder)
    with refused_as(CheckpointError):
        found = pf.Preferences.load(folder)
        for name in _ARRAYS:
            equal = np.array_equal(getattr(found, name), getattr(expected, name))
            require(equal, f"other {name} than were saved")


@cache
def _store() -> _Saved:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        parts = []
        for number, users in enumerate((["a", "a", "c"], ["b", "é", "é"])):
            writer = PartWriter(folder, f"part-{number:05}", 3, True)
            times = np.array([1.0, 2.0, 3.0])
            writer.add(np.array(users, object), np.array([0, 2, 1], np.int32), times)
            parts.append(writer.finish("str"))
        write_ids(folder / "item_ids", np.array([3, 5, 8]), "int64")
        card = {"user_ids": "str", "item_ids": "int64", "n_items": 3, "timestamps": True}
        write_card(folder, card | {"parts": parts})
        return _saved_in(folder, "store", Interactions.from_store)


def _store_seeds() -> tuple[bytes, ...]:
    return _numbered(_store())


def _numbered(saved: _Saved) -> tuple[bytes, ...]:
    return tuple(bytes([n]) + saved.files[name] for n, name in enumerate(saved.names))


def _with_one_file(saved: _Saved, content: bytes, folder: Path) -> None:
    saved.write(folder)
    name = saved.names[content[0] % len(saved.names) if content else 0]
    (folder / name).write_bytes(content[1:])


def _damaged_store(content: bytes, folder: Path) -> None:
    """As many records as the card says, all usable; or it is refused."""
    _with_one_file(_store(), content, folder)
    _open_store(folder, None)


def _damaged_store_by_parts(content: bytes, folder: Path) -> None:
    for part in ((0, 1), (1, 2)):
        _open_store(folder, part)


def _open_store(folder: Path, part: tuple[int, int] | None) -> None:
    with warned(), refused_as(DataError, *([ValueError] if part else [])):
        data = Interactions.from_store(folder, part=part)
        card = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        chosen = card["parts"][slice(None) if part is None else slice(part[0], None, part[1])]
        counts = [sum(p[key] for p in chosen) for key in ("n_users", "n_records")]
        require([data.n_users, data.n_records] == counts, "not what the card counts")
        data.unique_items()
        data.fingerprint()


TARGETS = {
    "bundle": Target(_bundle, _bundle_seeds),
    "resealed": Target(_resealed, _bundle_seeds),
    "parts": Target(_damaged_parts, _parts_seeds),
    "store": Target(_damaged_store, _store_seeds, also=_damaged_store_by_parts),
}
