"""Checks that settings and arguments share; each names what is wrong and its value."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

LARGEST = 1e30  # products and sums of such numbers are still finite in float32
DEEPEST = 1000

_NUMBERS = ("int", "float")
_KINDS: dict[str, tuple[type, str]] = {
    "int": (numbers.Integral, "a whole number"),
    "float": (numbers.Real, "a number"),
    "bool": (bool, "True or False"),
}


def check_choices(config: Any, **choices: Sequence[str]) -> None:
    """Each named setting is one of its choices."""
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ValueError(f"{name}={getattr(config, name)!r}: choose one of {allowed}")


def check_positive(config: Any, *names: str) -> None:
    """Each named setting is above 0, and neither so small nor so large that float32 loses it."""
    for name in names:
        _check_finite(config, name)
        value = getattr(config, name)
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
        if value < 1 / LARGEST:
            raise ValueError(f"{name} must be at least {1 / LARGEST:g}, got {value}")


def check_not_negative(config: Any, *names: str) -> None:
    """Each named setting is 0 or more, and at most ``LARGEST``."""
    for name in names:
        _check_finite(config, name)
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must not be negative, got {getattr(config, name)}")


def check_counts(config: Any, *names: str) -> None:
    """Each named setting is at least 1, and at most ``LARGEST``."""
    for name in names:
        _check_finite(config, name)
        if not getattr(config, name) >= 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


def check_kinds(config: Any) -> None:
    """Each setting that is declared ``int``, ``float`` or ``bool`` is one. NumPy's numbers become
    Python's, with which a model can be saved."""
    for setting in fields(config):
        value = getattr(config, setting.name)
        if isinstance(value, np.generic):
            value = value.item()
            object.__setattr__(config, setting.name, value)
        kind, words = _KINDS.get(str(setting.type), (object, ""))
        if not isinstance(value, kind) or (isinstance(value, bool) and setting.type in _NUMBERS):
            raise ValueError(f"{setting.name} must be {words}, got {value!r}")


def check_depths(config: Any, *names: str) -> None:
    """Each named setting, of so many modules one after the other, is at most ``DEEPEST``: a damaged
    file must not ask for millions."""
    for name in names:
        if getattr(config, name) > DEEPEST:
            raise ValueError(f"{name} must be at most {DEEPEST}, got {getattr(config, name)}")


def check_whole(**arguments: Any) -> None:
    """Raises TypeError unless each argument is a whole number."""
    for name, value in arguments.items():
        if not _is_whole(value):
            raise TypeError(f"{name} must be a whole number, got {value!r}")


def check_ordered(**arguments: Any) -> None:
    """Raises TypeError where an argument whose order counts is a set, or one is a mapping, of which
    the keys alone would be read."""
    for name, value in arguments.items():
        if isinstance(value, (set, frozenset)):
            raise TypeError(f"{name} is a {type(value).__name__}, which has no order: give a list")
        check_no_mapping(name, value)


def check_no_mapping(name: str, value: Any) -> None:
    """Raises TypeError where an argument is a mapping, of which the keys alone would be read."""
    if isinstance(value, Mapping):
        raise TypeError(f"{name} is a {type(value).__name__}: give a list")


def check_ratios(config: Any, *names: str) -> None:
    """Each named setting lies in [0, 1]."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {getattr(config, name)}")


def check_dropout(config: Any, name: str = "dropout") -> None:
    """The share to leave out lies in [0, 1)."""
    if not 0 <= getattr(config, name) < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {getattr(config, name)}")


def check_seed(config: Any) -> None:
    """The seed fits into 32 bits."""
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed must lie in 0 .. 2**32 - 1, got {config.seed}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _check_finite(config: Any, name: str) -> None:
    if getattr(config, name) in (math.inf, -math.inf):  # isinf takes no integers beyond floats
        raise ValueError(f"{name} must be finite, got {getattr(config, name)}")
    if getattr(config, name) > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST:g}, got {getattr(config, name)}")
