"""JSON and text files that a reader sees whole or not at all, and where two JSON values differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file that a reader sees whole or not at all."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file that a reader sees whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
