"""Settings by name: the paper's, one for data of your own, and what searches found."""

from pdrec_fast.presets.base import (
    DEFAULT,
    FORMER_NAMES,
    PRESETS,
    Preset,
    current_name,
)
from pdrec_fast.presets.tuned import kind_of, modules_of, preset_names, preset_of

__all__ = [
    "DEFAULT",
    "FORMER_NAMES",
    "PRESETS",
    "Preset",
    "current_name",
    "kind_of",
    "modules_of",
    "preset_names",
    "preset_of",
]
