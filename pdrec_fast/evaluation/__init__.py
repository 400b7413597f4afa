"""Ranking metrics and the evaluation protocols."""

from pdrec_fast.evaluation.metrics import (
    CUTOFFS,
    Ranks,
    metric_names,
    per_case,
    rank_counts,
    summarize,
)
from pdrec_fast.evaluation.popularity import Popularity
from pdrec_fast.evaluation.protocols import (
    PROTOCOLS,
    AllRanks,
    Evaluator,
    Results,
    evaluate,
    summarize_all,
)
from pdrec_fast.evaluation.sampling import (
    PAPER_NEGATIVES,
    available_negatives,
    can_sample,
    few_lack_negatives,
    sample_negatives,
    validation_sample,
)
from pdrec_fast.evaluation.scoring import (
    CorpusCases,
    Scorer,
    case_blocks,
    checked_scores,
    prepared,
    rank_among,
    rank_in_corpus,
)
from pdrec_fast.evaluation.sets import evaluate_sets, summarize_sets
from pdrec_fast.evaluation.tables import format_results, format_sets
from pdrec_fast.evaluation.vectors import VectorScorer, uses_vectors

__all__ = [
    "CUTOFFS",
    "PAPER_NEGATIVES",
    "PROTOCOLS",
    "AllRanks",
    "CorpusCases",
    "Evaluator",
    "Popularity",
    "Ranks",
    "Results",
    "Scorer",
    "VectorScorer",
    "available_negatives",
    "can_sample",
    "case_blocks",
    "checked_scores",
    "evaluate",
    "evaluate_sets",
    "few_lack_negatives",
    "format_results",
    "format_sets",
    "metric_names",
    "per_case",
    "prepared",
    "rank_among",
    "rank_counts",
    "rank_in_corpus",
    "sample_negatives",
    "summarize",
    "summarize_all",
    "summarize_sets",
    "uses_vectors",
    "validation_sample",
]
