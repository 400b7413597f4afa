"""From a fitted source of preferences to HBR weights, DPA candidates and the NNS pool."""

from pdrec_fast.preferences.preferences import Preferences
from pdrec_fast.preferences.reweighting import hbr_weights

__all__ = ["Preferences", "hbr_weights"]
