"""The whole job: diffusion, preferences, encoder, test; resumable, all figures in one file."""

from pdrec_fast.pipeline.configuration import DIFFUSION, RunConfig, SplitSpec
from pdrec_fast.pipeline.run_directory import LOG, reserve_directory, with_current_defaults
from pdrec_fast.pipeline.runner import RunResult, run
from pdrec_fast.pipeline.stages import (
    check_before_training,
    new_encoder,
    with_possible_protocols,
)

__all__ = [
    "DIFFUSION",
    "LOG",
    "RunConfig",
    "RunResult",
    "SplitSpec",
    "check_before_training",
    "new_encoder",
    "reserve_directory",
    "run",
    "with_current_defaults",
    "with_possible_protocols",
]
