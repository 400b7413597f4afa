"""Settings by name: the paper's, one for data of your own, and what searches found."""

from pdrec_fast.presets.base import (
    DEFAULT,
    DEFAULT_0_1,
    DEFAULT_FUSION_GUIDES,
    FORMER_NAMES,
    PRESETS,
    Preset,
    current_name,
)
from pdrec_fast.presets.tuned import kind_of, modules_of, preset_names, preset_of

__all__ = [
    "DEFAULT",
    "DEFAULT_0_1",
    "DEFAULT_FUSION_GUIDES",
    "FORMER_NAMES",
    "PRESETS",
    "Preset",
    "current_name",
    "kind_of",
    "modules_of",
    "preset_names",
    "preset_of",
]
