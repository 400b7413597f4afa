"""Interactions, histories, splits, two domains as one, stores on disk, synthetic data."""

from pdrec_fast.data.domains import mix_domains
from pdrec_fast.data.given import given_split
from pdrec_fast.data.histories import Histories, Holdout
from pdrec_fast.data.interactions import Interactions
from pdrec_fast.data.preparing import prepare
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.data.splits import Split, SplitReport, global_time_split, leave_one_out
from pdrec_fast.data.synthetic import synthetic

__all__ = [
    "Histories",
    "Holdout",
    "Interactions",
    "PackedSequences",
    "Split",
    "SplitReport",
    "given_split",
    "global_time_split",
    "leave_one_out",
    "mix_domains",
    "prepare",
    "synthetic",
]
