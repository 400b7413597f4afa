"""Single settings of a run as text: ``KEY=VALUE``, as ``--set`` takes them."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any, TypeVar

from pdrec_fast.diffusion import DiffusionConfig
from pdrec_fast.pipeline import RunConfig
from pdrec_fast.training import PDRecConfig

_OPEN_SETTINGS = ("top_m", "omega_m", "n_draws", "evaluation_seed")
SETTINGS_HELP = (
    f"Settings: {', '.join(_OPEN_SETTINGS)}; "
    f"diffusion.: {', '.join(field.name for field in fields(DiffusionConfig))}; "
    f"pdrec.: {', '.join(field.name for field in fields(PDRecConfig))}; "
    "encoder.: the encoder's own (sasrec: width, blocks, heads, max_length, dropout; "
    "gru4rec: width, hidden, layers, max_length, dropout; "
    "cl4srec: sasrec's, crop, mask, reorder, contrast_weight, temperature)."
)

Settings = TypeVar("Settings", DiffusionConfig, PDRecConfig, RunConfig)


def with_setting(config: RunConfig, setting: str) -> RunConfig:
    """Apply one ``--set KEY=VALUE``."""
    key, separator, text = setting.partition("=")
    if not separator:
        raise ValueError(f"--set {setting}: write KEY=VALUE")
    group, dot, name = key.partition(".")
    if not dot and key in _OPEN_SETTINGS:
        return _replaced(config, key, text, setting)
    if group == "diffusion":
        return replace(config, diffusion=_replaced(config.diffusion, name, text, setting))
    if group == "pdrec":
        return replace(config, pdrec=_replaced(config.pdrec, name, text, setting))
    if group == "encoder":
        options = config.encoder_options | {name: _parsed(text)}
        return replace(config, encoder_options=options)
    raise ValueError(
        f"--set {setting}: unknown setting; use diffusion.NAME, pdrec.NAME, encoder.NAME or one of "
        f"{', '.join(_OPEN_SETTINGS)}"
    )


def _replaced(config: Settings, name: str, text: str, setting: str) -> Settings:
    known = {field.name: getattr(config, field.name) for field in fields(config)}
    if name not in known:
        raise ValueError(f"--set {setting}: no such setting; known: {', '.join(known)}")
    value = _parsed(text)
    if isinstance(known[name], tuple) and not isinstance(value, list):
        value = [value]
    if isinstance(known[name], tuple):
        value = tuple(value)
    elif isinstance(known[name], float) and type(value) is int:
        value = float(value)
    elif type(value) is not type(known[name]):
        wanted = type(known[name]).__name__
        raise ValueError(f"--set {setting}: {name} takes a value of type {wanted}")
    return replace(config, **{name: value})


def _parsed(text: str) -> Any:
    """A JSON value, ``True`` or ``False``, or the text itself."""
    if text in ("True", "False"):
        return text == "True"
    try:
        return json.loads(text)
    except ValueError:
        return text
