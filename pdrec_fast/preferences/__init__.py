"""From a fitted scorer to HBR weights, soft positives (DPA) and the pool of negatives (NNS)."""

from pdrec_fast.preferences.preferences import Preferences
from pdrec_fast.preferences.reweighting import hbr_weights

__all__ = ["Preferences", "hbr_weights"]
