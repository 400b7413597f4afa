"""Ranking metrics and the evaluation protocols."""

from pdrec_fast.evaluation.metrics import (
    CUTOFFS,
    Ranks,
    metric_names,
    per_case,
    rank_counts,
    summarize,
)
from pdrec_fast.evaluation.protocols import (
    PAPER_NEGATIVES,
    PROTOCOLS,
    AllRanks,
    Evaluator,
    Results,
    Scorer,
    available_negatives,
    checked_scores,
    evaluate,
    format_results,
    rank_among,
    rank_in_corpus,
    sample_negatives,
    summarize_all,
)

__all__ = [
    "CUTOFFS",
    "PAPER_NEGATIVES",
    "PROTOCOLS",
    "AllRanks",
    "Evaluator",
    "Ranks",
    "Results",
    "Scorer",
    "available_negatives",
    "checked_scores",
    "evaluate",
    "format_results",
    "metric_names",
    "per_case",
    "rank_among",
    "rank_counts",
    "rank_in_corpus",
    "sample_negatives",
    "summarize",
    "summarize_all",
]
