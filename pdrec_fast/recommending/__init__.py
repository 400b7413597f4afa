"""What a fitted model recommends: to whom, among which items, and into which file."""

from pdrec_fast.recommending.lists import list_metrics
from pdrec_fast.recommending.recommendations import Recommendations
from pdrec_fast.recommending.recommender import Recommender

__all__ = ["Recommendations", "Recommender", "list_metrics"]
