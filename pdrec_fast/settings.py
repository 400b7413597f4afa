"""Single settings by dotted keys: ``pdrec.lr``, ``diffusion.hidden``, ``encoder.width``, ``top_m``.

The keys follow from the fields of a configuration: those of its groups, and its own numbers.
Values are taken as they are or as text, the way ``--set KEY=VALUE`` gives them.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from pdrec_fast.errors import printable

Config = TypeVar("Config")

# Group -> the field that holds it.
_GROUPS = {
    "diffusion": "diffusion",
    "pdrec": "pdrec",
    "encoder": "encoder_options",
    "linear": "linear",
    "item_knn": "item_knn",
    "codigem": "codigem",
    "latent": "latent",
}


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """A ``RunConfig`` or ``Preset`` with settings changed, all at once.

    A run without an encoder has no settings of one, and takes those that it is given for nothing.

    Args:
        settings: dotted key -> value, or its text: a JSON value, ``True``, ``False`` or plain text.
            Values with commas between them, or a single one, stand for a tuple.

    Raises:
        ValueError: there is no such setting, or its value is of another type or out of its range.
    """
    changes: dict[str, Any] = {}
    grouped: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        group, dot, name = key.rpartition(".")
        if dot and hasattr(config, _GROUPS.get(group, "")):
            grouped.setdefault(group, {})[name] = value
        elif key in own_settings(config):
            changes[key] = value
        else:
            groups = [f"{name}.NAME" for name, field in _GROUPS.items() if hasattr(config, field)]
            known = ", ".join([*groups, *own_settings(config)])
            raise ValueError(printable(f"{key}: no such setting; known: {known}"))
    for group, values in grouped.items():
        held = getattr(config, _GROUPS[group])
        if held is not None:
            changes[_GROUPS[group]] = with_fields(held, values, f"{group}.")
    return with_fields(config, changes)


def with_fields(config: Config, values: Mapping[str, Any], prefix: str = "") -> Config:
    """One dataclass with fields changed; see ``with_settings``.

    Args:
        prefix: of the fields' names in errors.
    """
    known = field_values(config)
    changes = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(
                printable(f"{prefix}{name}: no such setting; known: {', '.join(known)}")
            )
        changes[name] = _typed(f"{prefix}{name}", value, known[name])
    return replace(config, **changes)  # type: ignore[type-var]


def value_of(config: Any, key: str) -> Any:
    """The value of a setting by its dotted key."""
    group, _, name = key.rpartition(".")
    return getattr(getattr(config, _GROUPS[group]) if group else config, name)


def own_settings(config: Any) -> list[str]:
    """The keys of a configuration that are in no group: its own numbers and tuples."""
    kinds = (int, float, tuple)
    return [name for name, value in field_values(config).items() if type(value) in kinds]


def field_values(config: Any) -> dict[str, Any]:
    """The fields of a dataclass by name."""
    return {field.name: getattr(config, field.name) for field in fields(config)}


def parse_settings(texts: Iterable[str]) -> dict[str, str]:
    """What ``KEY=VALUE`` texts set; of a key that comes twice, the last counts."""
    found = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise ValueError(printable(f"{text}: write KEY=VALUE"))
        found[key] = value
    return found


def written(settings: Mapping[str, Any]) -> list[str]:
    """``KEY=VALUE`` for each setting, as ``parse_settings`` reads it."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _typed(key: str, value: Any, current: Any) -> Any:
    """``value``, read where it is text, as the type that the setting has."""
    given = _read(value) if isinstance(value, str) else value
    if isinstance(current, tuple):
        if isinstance(given, str) and "," in given:
            given = [_read(part.strip()) for part in given.split(",")]
        return tuple(given) if isinstance(given, (list, tuple)) else (given,)
    for kind, accepted in ((float, numbers.Real), (int, numbers.Integral)):
        if type(current) is kind and isinstance(given, accepted) and not isinstance(given, bool):
            try:
                return kind(given)
            except OverflowError:
                raise ValueError(f"{key}: {str(given)[:20]}... is beyond any float") from None
    if type(given) is not type(current):
        raise ValueError(
            printable(f"{key}={value}: takes a value of type {type(current).__name__}")
        )
    return given


def _read(text: str) -> Any:
    """A JSON value, ``True`` or ``False``, another way to write a number, or the text itself."""
    if text in ("True", "False"):
        return text == "True"
    for read in (json.loads, float):  # JSON has no .95
        try:
            return read(text)
        except (ValueError, RecursionError):
            pass
    return text
