"""Settings as text, tuned presets, descriptions of runs and of studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pdrec_fast as pf
from bench.fuzz.properties import Target, refused_as, require
from pdrec_fast.errors import PDRecError
from pdrec_fast.pipeline.run_directory import reserve_directory
from pdrec_fast.presets.tuned import FOLDER, preset_of, read_tuned
from pdrec_fast.settings import parse_settings, with_settings

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
    with refused_as(PDRecError):
        reserve_directory(folder, "run", _described())


def _described() -> dict[str, Any]:
    return {"version": "0", "config": pf.RunConfig().describe(), "data": "abc"}


def _tuned_seeds() -> tuple[bytes, ...]:
    tuned = json.loads((FOLDER / "toy-tuned.json").read_text(encoding="utf-8"))
    one = dict(list(tuned["encoders"].items())[:1])
    return (json.dumps(tuned | {"encoders": one}).encode(),)


TARGETS = {
    "settings": Target(_settings, lambda: _SETTINGS),
    "tuned": Target(_tuned, _tuned_seeds),
    "run-file": Target(_run_file, lambda: (json.dumps(_described()).encode(),)),
}
