"""The whole job: diffusion, preferences, encoder, test; resumable, all figures in one file."""

from pdrec_fast.pipeline.configuration import RunConfig, SplitSpec
from pdrec_fast.pipeline.former import read_run, without_seen
from pdrec_fast.pipeline.guides import DIFFUSION, GUIDE_NAMES, GUIDES, new_encoder
from pdrec_fast.pipeline.run_directory import (
    LOG,
    reserved_directory,
    tested_models,
    with_current_defaults,
)
from pdrec_fast.pipeline.runner import RunResult, run
from pdrec_fast.pipeline.stages import check_before_training, with_possible_protocols
from pdrec_fast.pipeline.updating import UPDATE_SETTINGS, update

__all__ = [
    "DIFFUSION",
    "GUIDES",
    "GUIDE_NAMES",
    "LOG",
    "UPDATE_SETTINGS",
    "RunConfig",
    "RunResult",
    "SplitSpec",
    "check_before_training",
    "new_encoder",
    "read_run",
    "reserved_directory",
    "run",
    "tested_models",
    "update",
    "with_current_defaults",
    "with_possible_protocols",
    "without_seen",
]
