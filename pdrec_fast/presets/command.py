"""``pdrec-fast presets``: what a preset sets, and where every value comes from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from pdrec_fast.diffusion import LinearConfig
from pdrec_fast.encoders import SASRecConfig
from pdrec_fast.presets.base import (
    DEFAULT_FUSION_GUIDES,
    ENCODER_SOURCES,
    OURS,
    PRESETS,
    README,
    README_COMMANDS,
    current_name,
    settings_of,
)
from pdrec_fast.presets.tuned import preset_names, read_tuned, tuned_path


def presets(
    name: Annotated[
        str | None,
        typer.Argument(help="A preset, or a .json file that tune --into wrote; default: list."),
    ] = None,
) -> None:
    """Print the presets, or the settings of one and where they come from."""
    if name is None:
        print("\n".join(preset_names()))
        return
    name = current_name(name)
    if name in PRESETS:
        print(_table([("setting", "value", "source"), *_rows(name)]))
    else:
        print(_tuned_table(read_tuned(tuned_path(name))))


def _rows(name: str) -> list[tuple[str, ...]]:
    commands = README_COMMANDS.get(name, {})
    rows: list[tuple[str, ...]] = []
    for setting in settings_of(name):
        others = ", ".join(
            f"{encoder} {_text(changed[setting.key])}"
            for encoder, changed in commands.items()
            if setting.key in changed
        )
        source = setting.source + (f" ({README}: {others})" if others else "")
        rows.append((setting.key, _text(setting.value), source))
    if "fusion" in PRESETS[name].pdrec.modules:
        rows.append(("fusion_guides", _text(DEFAULT_FUSION_GUIDES), OURS))
        linear = asdict(LinearConfig())
        rows += [(f"linear.{key}", _text(value), OURS) for key, value in linear.items()]
    defaults = asdict(SASRecConfig())
    return rows + [
        (f"encoder.{key}", _text(defaults[key]), f"{source} (sasrec)")
        for key, source in ENCODER_SOURCES.items()
    ]


def _tuned_table(tuned: dict[str, Any]) -> str:
    """The base's value of every setting that was tuned, what was found, and by which searches."""
    entries = {
        f"{encoder} {kind}": entry
        for encoder, kinds in tuned["encoders"].items()
        for kind, entry in kinds.items()
    }
    base = {setting.key: setting.value for setting in settings_of(tuned["base"])}
    keys = dict.fromkeys(key for entry in entries.values() for key in entry["settings"])
    rows = [("setting", tuned["base"], *entries)]
    for key in sorted(keys, key=lambda key: (key not in base, key)):
        found = [entry["settings"].get(key, "") for entry in entries.values()]
        rows.append((key, *(_text(value) for value in (base.get(key, ""), *found))))
    searches = [
        f"{name}: {', '.join(f'{key} {_text(value)}' for key, value in entry['search'].items())}"
        for name, entry in entries.items()
    ]
    return "\n".join([_table(rows), "", *searches])


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
