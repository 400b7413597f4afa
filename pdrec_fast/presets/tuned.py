"""Presets that a search on validation found: JSON files, here or of the user's own.

A file says which preset the search began with and, by encoder, what was found for the plain
backbone and for the guided one, with the search that found it::

    {"base": "toy", "encoders": {"sasrec": {"plain": ENTRY, "guided": ENTRY}}}
    ENTRY = {"settings": {"pdrec.lr": 0.002, ...}, "search": {"trials": 30, ...}}

``pdrec-fast tune --into FILE`` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pdrec_fast.files import read_json
from pdrec_fast.presets.base import DEFAULT, PRESETS, Preset
from pdrec_fast.training import MODULES, Module

FOLDER = Path(__file__).parent
Kind = Literal["plain", "guided"]


def kind_of(modules: Iterable[str]) -> Kind:
    """Which entry a run with these modules takes; the fusion changes no training."""
    return "guided" if any(module in MODULES for module in modules) else "plain"


def modules_of(name: str) -> tuple[Module, ...]:
    """The modules of a preset's runs, unless they are told otherwise; searches are for the
    paper's."""
    return PRESETS[name].pdrec.modules if name in PRESETS else MODULES


def preset_names() -> list[str]:
    """The presets that come with the package; a path of a file is another."""
    return [*PRESETS, *sorted(path.stem for path in FOLDER.glob("*.json"))]


def preset_of(name: str, *, encoder: str | None, kind: Kind) -> tuple[Preset, dict[str, Any]]:
    """A preset, and the settings that a search found for an encoder, plain or guided.

    Args:
        name: one of ``preset_names()``, or the path of a JSON file that ``pdrec-fast tune --into``
            wrote.
        encoder: name of the encoder; None where none is trained, for which nothing was searched.

    Raises:
        ValueError: there is no such preset, the file is damaged, or nobody has searched for this
            encoder's settings.
    """
    if name in PRESETS:
        return PRESETS[name], {}
    tuned = read_tuned(tuned_path(name))
    base = PRESETS[tuned["base"]]
    if encoder is None:
        return base, {}
    entry = tuned["encoders"].get(encoder, {}).get(kind)
    if entry is None:
        modules = "none" if kind == "plain" else "hbr,dpa,nns"
        raise ValueError(
            f"preset={name!r} has no settings for the {kind} encoder {encoder!r}; take "
            f"{tuned['base']!r}, or search for them: pdrec-fast tune --preset {tuned['base']} "
            f"--encoder {encoder} --modules {modules} --into FILE.json --data ... --out ..."
        )
    return base, entry["settings"]


def tuned_path(name: str) -> Path:
    """The file of a preset that is not the package's own."""
    packaged = FOLDER / f"{name}.json"
    if name in preset_names():
        return packaged
    if name.endswith(".json") and Path(name).is_file():
        return Path(name)
    raise ValueError(
        f"unknown preset={name!r}; choose one of {preset_names()}, or the path of a .json file "
        "that pdrec-fast tune --into wrote"
    )


def read_tuned(path: Path) -> dict[str, Any]:
    """The contents of a file of tuned settings, checked for what the module's docstring says."""
    try:
        tuned: dict[str, Any] = read_json(path)
        if tuned["base"] == "none":  # as version 0.1.0 called it
            tuned["base"] = DEFAULT
        if tuned["base"] not in PRESETS:
            raise ValueError(f"base={tuned['base']!r} is none of {list(PRESETS)}")
        for encoder, entries in tuned["encoders"].items():
            for kind, entry in entries.items():
                if not (isinstance(entry["settings"], dict) and isinstance(entry["search"], dict)):
                    raise ValueError(f"{encoder}, {kind}: settings and search must be objects")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a file of tuned settings ({type(error).__name__}: {error}); "
            "pdrec-fast tune --into writes such files"
        ) from None
    return tuned
