"""Which settings are searched, and where."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pdrec_fast.pipeline import RunConfig
from pdrec_fast.settings import value_of

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
        return _rounded(value)


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]

    def including(self, value: Any) -> Choice:
        return self if value in self.values else Choice(tuple(sorted((*self.values, value))))

    def rounded(self, value: Any) -> Any:
        return value


Dimension = Range | Choice


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


# About the mean of HBR's weights: its rescale times its clip or 1, whichever is less, as weights
# before clipping average less than 1. Searched in place of the rescale, so that every clip, down to
# those that weigh all behaviours alike, comes with weights of a reasonable size.
HBR_MEAN = "mean weight of hbr"
# Plain or guided, an encoder may have up to 64 negatives in all.
_NEGATIVES = (1, 2, 4, 8, 16, 32)
_MOST_NEGATIVES = 64

_BACKBONE: dict[str, Dimension] = {
    "pdrec.loss": Choice(("bce", "softmax")),  # and the one that the search begins with
    "pdrec.lr": Range(5e-4, 2e-2, log=True),
    "pdrec.lr_decay": Range(0.95, 1.0),
    "pdrec.temperature": Range(3.0, 15.0, log=True),
    "pdrec.random_negatives": Choice((*_NEGATIVES, _MOST_NEGATIVES)),
    "pdrec.batch_size": Choice((64, 128, 256, 512)),
    "encoder.dropout": Range(0.0, 0.6),
}
# Searched where a run has them on, or a first trial names them.
_IF_USED: dict[str, Dimension] = {
    "pdrec.warmup_steps": Choice((0, 100, 300, 1000)),
    "pdrec.weight_decay": Choice((0.0, 1e-3, 1e-2, 1e-1)),
    "pdrec.clip_norm": Choice((0.0, 0.5, 1.0, 5.0)),
}
_MODULE_SPACES: dict[str, dict[str, Dimension]] = {
    "hbr": {
        "pdrec.hbr_clip": Range(0.1, 5.0, log=True),
        "pdrec.hbr_rescale": Range(0.5, 10.0, log=True),
        "pdrec.hbr_rank_weight": Range(0.0, 1.0),
    },
    "dpa": {
        "pdrec.dpa_weight": Range(5e-3, 0.5, log=True),
        "pdrec.dpa_top_n": Choice((1, 2, 5, 10)),
        "top_m": Choice((10, 20, 50, 100)),
    },
    "nns": {
        "pdrec.random_negatives": Choice(_NEGATIVES),
        "pdrec.safe_negatives": Choice(_NEGATIVES),
        "omega_m": Choice((0.2, 0.5, 0.8, 0.9)),
    },
}


def search_space(
    config: RunConfig, fixed: Collection[str] = (), tried: Collection[str] = ()
) -> dict[str, Dimension]:
    """What to search for a run: of the backbone, and of its modules. ``settings_of`` turns a point
    of the space into settings.

    Args:
        config: the run that the search begins with; the space is widened to include it.
        fixed: settings that keep the values of ``config``.
        tried: settings that a first trial changes. Warm-up, weight decay and clipping are searched
            where ``config`` has them on or they are tried.
    """
    space = dict(_BACKBONE)
    if config.pdrec.loss == "shared_softmax":
        space["pdrec.shared_negatives"] = Choice((256, 512, 1024, 2048))
    for key, dimension in _IF_USED.items():
        if value_of(config, key) or key in tried:
            space[key] = dimension
    for module in config.pdrec.training_modules:
        space |= _MODULE_SPACES[module]
    if "pdrec.loss" in fixed and not config.pdrec.own_negatives:
        del space["pdrec.random_negatives"]  # not used
    if config.pdrec.similarity == "dot":
        del space["pdrec.temperature"]  # not used
    if config.pdrec.lr_schedule == "cosine":
        del space["pdrec.lr_decay"]  # not used
    space = {key: dimension for key, dimension in space.items() if key not in fixed}
    if {"pdrec.hbr_clip", "pdrec.hbr_rescale"} <= space.keys():
        del space["pdrec.hbr_rescale"]
        space[HBR_MEAN] = Range(0.5, 4.0, log=True)
    point = point_of(config, space)
    return _possible(
        config, {key: dimension.including(point[key]) for key, dimension in space.items()}
    )


def point_of(config: RunConfig, space: Collection[str]) -> dict[str, Any]:
    """Where a run lies in a space."""
    mean = config.pdrec.hbr_rescale * min(config.pdrec.hbr_clip, 1.0)
    return {key: mean if key == HBR_MEAN else value_of(config, key) for key in space}


def settings_of(point: Mapping[str, Any], space: Mapping[str, Dimension]) -> dict[str, Any]:
    """The settings, as ``--set`` names them, of a point of the space; as round as one types."""
    settings = {key: space[key].rounded(value) for key, value in point.items()}
    if HBR_MEAN in settings:
        mean, scale = settings.pop(HBR_MEAN), min(settings["pdrec.hbr_clip"], 1.0)
        settings["pdrec.hbr_rescale"] = _rounded(mean / scale)
    return settings


def _possible(config: RunConfig, space: dict[str, Dimension]) -> dict[str, Dimension]:
    """The space without choices of DPA's n that are more than one of its m."""
    least = config.top_m
    top_m, top_n = space.get("top_m"), space.get("pdrec.dpa_top_n")
    if isinstance(top_m, Choice):
        enough = tuple(value for value in top_m.values if value >= config.pdrec.dpa_top_n)
        space["top_m"], least = Choice(enough), min(enough)
    if isinstance(top_n, Choice):
        space["pdrec.dpa_top_n"] = Choice(tuple(n for n in top_n.values if n <= least))
    return space
