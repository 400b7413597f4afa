"""Which settings are searched, and where."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pdrec_fast.encoders import ENCODERS
from pdrec_fast.pipeline import RunConfig
from pdrec_fast.settings import with_setting

_DIGITS = 4


@dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``; ``log``: by their logarithm."""

    low: float
    high: float
    log: bool = False

    def including(self, value: float) -> Range:
        return replace(self, low=min(self.low, value), high=max(self.high, value))

    def rounded(self, value: float) -> float:
        """To as many digits as anyone would type."""
        return float(f"{value:.{_DIGITS}g}")


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]

    def including(self, value: Any) -> Choice:
        return self if value in self.values else Choice(tuple(sorted((*self.values, value))))

    def rounded(self, value: Any) -> Any:
        return value


Dimension = Range | Choice

_BACKBONE: dict[str, Dimension] = {
    "pdrec.lr": Range(5e-4, 2e-2, log=True),
    "pdrec.lr_decay": Range(0.95, 1.0),
    "pdrec.temperature": Range(2.0, 20.0, log=True),
    "pdrec.random_negatives": Choice((1, 2, 4, 8)),
    "pdrec.batch_size": Choice((64, 128, 256, 512)),
    "encoder.dropout": Range(0.0, 0.6),
}
_OF_MODULE: dict[str, dict[str, Dimension]] = {
    # clip x rescale = 1 with a small clip weighs nearly every behaviour alike: no module at all.
    "hbr": {
        "pdrec.hbr_clip": Range(0.1, 5.0, log=True),
        "pdrec.hbr_rescale": Range(0.5, 10.0, log=True),
        "pdrec.hbr_rank_weight": Range(0.0, 1.0),
    },
    "dpa": {
        "pdrec.dpa_weight": Range(1e-3, 0.5, log=True),
        "pdrec.dpa_top_n": Choice((1, 2, 5, 10)),
        "top_m": Choice((10, 20, 50, 100)),
    },
    "nns": {
        "pdrec.safe_negatives": Choice((1, 2, 4)),
        "omega_m": Choice((0.2, 0.5, 0.8, 0.9)),
    },
}


def search_space(config: RunConfig, fixed: Collection[str] = ()) -> dict[str, Dimension]:
    """What to search for a run: of the backbone, and of its modules.

    Args:
        config: the run that the search begins with; the space is widened to include it.
        fixed: settings that keep the values of ``config``.
    """
    space = dict(_BACKBONE)
    for module in config.pdrec.modules:
        space |= _OF_MODULE[module]
    if config.pdrec.similarity == "dot":
        del space["pdrec.temperature"]  # not used
    return _possible(
        config,
        {
            key: dimension.including(value_of(config, key))
            for key, dimension in space.items()
            if key not in fixed
        },
    )


def _possible(config: RunConfig, space: dict[str, Dimension]) -> dict[str, Dimension]:
    """The space without choices of DPA's n that are more than one of its m."""
    least = config.top_m
    of_m = space.get("top_m")
    if isinstance(of_m, Choice):
        enough = tuple(value for value in of_m.values if value >= config.pdrec.dpa_top_n)
        space["top_m"], least = Choice(enough), min(enough)
    of_n = space.get("pdrec.dpa_top_n")
    if isinstance(of_n, Choice):
        space["pdrec.dpa_top_n"] = Choice(tuple(n for n in of_n.values if n <= least))
    return space


def value_of(config: RunConfig, key: str) -> Any:
    """The value of the setting that ``--set`` calls ``key``."""
    group, _, name = key.rpartition(".")
    if group != "encoder":
        return getattr(getattr(config, group) if group else config, name)
    if name in config.encoder_options:
        return config.encoder_options[name]
    return getattr(ENCODERS[config.encoder](1, **config.encoder_options), name)


def as_arguments(values: Mapping[str, Any]) -> list[str]:
    """The values of ``--set`` that make these settings."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """``config`` with these settings."""
    for argument in as_arguments(values):
        config = with_setting(config, argument)
    return config
