"""Late fusion: a model's logits and what other scorers say, weighed on validation."""

from pdrec_fast.fusion.fusion import Fusion, Share
from pdrec_fast.fusion.search import SelectFusionBy, choose_shares

__all__ = ["Fusion", "SelectFusionBy", "Share", "choose_shares"]
