"""Diffusion-guided sequential recommendation: TI-DiffRec and PDRec with compiled hot paths."""

__version__ = "0.1.0"

from pdrec_fast.baselines import ItemKNN, ItemKNNConfig
from pdrec_fast.build_info import build_info
from pdrec_fast.data import (
    Histories,
    Interactions,
    PackedSequences,
    Split,
    given_split,
    global_time_split,
    leave_one_out,
    mix_domains,
    synthetic,
)
from pdrec_fast.diffusion import (
    Codigem,
    CodigemConfig,
    DiffRec,
    DiffusionConfig,
    LatentConfig,
    LatentDiffRec,
    LinearConfig,
    LinearDenoiser,
)
from pdrec_fast.encoders import (
    CL4SRec,
    CL4SRecConfig,
    ContrastiveEncoder,
    GRU4Rec,
    GRU4RecConfig,
    PaddedEncoder,
    SASRec,
    SASRecConfig,
    SequenceEncoder,
)
from pdrec_fast.errors import (
    BackendError,
    CheckpointError,
    DataError,
    MissingExtraError,
    NonFiniteLossError,
    NonFiniteScoresError,
    NotFittedError,
    PDRecError,
)
from pdrec_fast.evaluation import (
    Evaluator,
    Popularity,
    Results,
    Scorer,
    evaluate,
    evaluate_sets,
    format_results,
)
from pdrec_fast.fusion import Fusion, Share, choose_shares
from pdrec_fast.pipeline import RunConfig, RunResult, SplitSpec, run
from pdrec_fast.preferences import Preferences
from pdrec_fast.presets import PRESETS
from pdrec_fast.recommending import Recommendations
from pdrec_fast.settings import with_settings
from pdrec_fast.training import Guidance, Objective, PDRec, PDRecConfig

__all__ = [
    "PRESETS",
    "BackendError",
    "CL4SRec",
    "CL4SRecConfig",
    "CheckpointError",
    "Codigem",
    "CodigemConfig",
    "ContrastiveEncoder",
    "DataError",
    "DiffRec",
    "DiffusionConfig",
    "Evaluator",
    "Fusion",
    "GRU4Rec",
    "GRU4RecConfig",
    "Guidance",
    "Histories",
    "Interactions",
    "ItemKNN",
    "ItemKNNConfig",
    "LatentConfig",
    "LatentDiffRec",
    "LinearConfig",
    "LinearDenoiser",
    "MissingExtraError",
    "NonFiniteLossError",
    "NonFiniteScoresError",
    "NotFittedError",
    "Objective",
    "PDRec",
    "PDRecConfig",
    "PDRecError",
    "PackedSequences",
    "PaddedEncoder",
    "Popularity",
    "Preferences",
    "Recommendations",
    "Results",
    "RunConfig",
    "RunResult",
    "SASRec",
    "SASRecConfig",
    "Scorer",
    "SequenceEncoder",
    "Share",
    "Split",
    "SplitSpec",
    "__version__",
    "build_info",
    "choose_shares",
    "evaluate",
    "evaluate_sets",
    "format_results",
    "given_split",
    "global_time_split",
    "leave_one_out",
    "mix_domains",
    "run",
    "synthetic",
    "with_settings",
]
