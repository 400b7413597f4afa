"""Settings as text, tuned presets, descriptions of runs and of studies."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pdrec_fast as pf
from bench.fuzz.properties import Target, refused_as, require
from pdrec_fast.errors import DataError, PDRecError
from pdrec_fast.pipeline.run_directory import reserved_directory
from pdrec_fast.presets.tuned import FOLDER, preset_of, read_tuned
from pdrec_fast.settings import parse_settings, with_settings
from pdrec_fast.studies.load import _read_info, load_studies
from pdrec_fast.studies.schema import read_table

_SETTINGS = (
    b"pdrec.lr=0.01\ndiffusion.hidden=32\nencoder.width=16",
    b"top_m=10\npdrec.modules=hbr,nns\ndiffusion.normalize_input=True\npdrec.dropout=.2",
    b"fusion_guides=linear\nlinear.ridge=1e3\nitem_knn.k=5\nencoder_options={}\nseed=-1",
)


def _settings(content: bytes, folder: Path) -> None:
    """``KEY=VALUE`` lines: refused, or a configuration that is the same after it was written."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    with refused_as(ValueError, TypeError):
        config = with_settings(pf.RunConfig(), parse_settings(lines))
        values = json.loads(json.dumps(config.describe()))
        again = pf.RunConfig.from_description(values)
        require(again.describe() == values, f"written and read again: {again}, not {config}")


def _tuned(content: bytes, folder: Path) -> None:
    path = folder / "fuzz.json"
    path.write_bytes(content)
    with refused_as(ValueError):
        found = read_tuned(path)
        for encoder, entries in found["encoders"].items():
            for kind in entries:
                preset, settings = preset_of(str(path), encoder=encoder, kind=kind)
                with_settings(preset, settings)


def _run_file(content: bytes, folder: Path) -> None:
    """Of a run's folder with this ``run.json``: whether another run may use it."""
    (folder / "run.json").write_bytes(content)
    with refused_as(PDRecError), reserved_directory(folder, "run", _described()):
        pass


@cache
def _described() -> dict[str, Any]:
    return {"version": "0", "config": pf.RunConfig().describe(), "data": "abc"}


def _tuned_seeds() -> tuple[bytes, ...]:
    tuned = json.loads((FOLDER / "toy-tuned.json").read_text(encoding="utf-8"))
    one = dict(list(tuned["encoders"].items())[:1])
    return (json.dumps(tuned | {"encoders": one}).encode(),)


_STUDY = Path(__file__).parents[1] / "results" / "toy" / "study"
_FILES = ("study.json", "results.csv", "curves.csv", "ranks.csv", "hbr.csv")


@cache
def _study_files() -> dict[str, bytes]:
    """A study with the first rows of its tables."""
    files = {name: (_STUDY / name).read_bytes() for name in _FILES}
    return {
        name: content if name.endswith(".json") else b"".join(content.splitlines(True)[:5])
        for name, content in files.items()
    }


def _study_file(content: bytes, folder: Path) -> None:
    """The first byte chooses the file, the others are its content; it is read alone."""
    file = folder / _FILES[content[0] % len(_FILES) if content else 0]
    file.write_bytes(content[1:])
    with refused_as(DataError):
        if file.suffix == ".json":
            _ = _read_info(folder).data_sets
        else:
            read_table(folder, file.stem)


def _study(content: bytes, folder: Path) -> None:
    """The whole study with that file in it."""
    for name, sound in _study_files().items():
        if not (folder / name).exists():
            (folder / name).write_bytes(sound)
    with refused_as(DataError):
        studies = load_studies([folder])
        for data_set in studies.data_sets:
            studies.items(data_set)
            studies.variants(data_set)


def _study_seeds() -> tuple[bytes, ...]:
    return tuple(bytes([n]) + sound for n, sound in enumerate(_study_files().values()))


TARGETS = {
    "settings": Target(_settings, lambda: _SETTINGS),
    "tuned": Target(_tuned, _tuned_seeds),
    "study": Target(_study_file, _study_seeds, also=_study, weight=1),
    "run-file": Target(_run_file, lambda: (json.dumps(_described()).encode(),)),
}
