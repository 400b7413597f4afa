"""Search for settings on validation, with the same budget for plain and guided encoders."""

from pdrec_fast.tuning.results import SearchResult, Trial, merge
from pdrec_fast.tuning.search import Search, tune
from pdrec_fast.tuning.space import Choice, Dimension, Range, search_space

__all__ = [
    "Choice",
    "Dimension",
    "Range",
    "Search",
    "SearchResult",
    "Trial",
    "merge",
    "search_space",
    "tune",
]
