"""Settings by name: the paper's, one for data of your own, and what searches found."""

from pdrec_fast.presets.base import PRESETS, Preset
from pdrec_fast.presets.tuned import kind_of, preset_names, preset_of

__all__ = ["PRESETS", "Preset", "kind_of", "preset_names", "preset_of"]
