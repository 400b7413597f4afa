"""Diffusion-guided sequential recommendation: TI-DiffRec and PDRec with compiled hot paths."""

__version__ = "0.1.0"

from pdrec_fast.build_info import build_info
from pdrec_fast.data import (
    Interactions,
    PackedSequences,
    global_time_split,
    leave_one_out,
    mix_domains,
    synthetic,
)
from pdrec_fast.diffusion import DiffRec, DiffusionConfig
from pdrec_fast.encoders import (
    CL4SRec,
    ContrastiveEncoder,
    GRU4Rec,
    PaddedEncoder,
    SASRec,
    SequenceEncoder,
)
from pdrec_fast.evaluation import evaluate, format_results
from pdrec_fast.pipeline import RunConfig, run
from pdrec_fast.preferences import Preferences
from pdrec_fast.presets import PRESETS
from pdrec_fast.training import Guidance, Objective, PDRec, PDRecConfig

__all__ = [
    "PRESETS",
    "CL4SRec",
    "ContrastiveEncoder",
    "DiffRec",
    "DiffusionConfig",
    "GRU4Rec",
    "Guidance",
    "Interactions",
    "Objective",
    "PDRec",
    "PDRecConfig",
    "PackedSequences",
    "PaddedEncoder",
    "Preferences",
    "RunConfig",
    "SASRec",
    "SequenceEncoder",
    "__version__",
    "build_info",
    "evaluate",
    "format_results",
    "global_time_split",
    "leave_one_out",
    "mix_domains",
    "run",
    "synthetic",
]
