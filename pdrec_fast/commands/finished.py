"""The model that a finished run left."""

from __future__ import annotations

from pathlib import Path

from pdrec_fast.diffusion import DiffRec
from pdrec_fast.pipeline import DIFFUSION, read_run
from pdrec_fast.training import PDRec


def model_of(run_dir: Path, device: str, models: Path | None = None) -> PDRec | DiffRec:
    """The recommender of a finished run: its encoder, or its diffusion model alone.

    Args:
        models: where they lie; by default in the run's own directory.

    Raises:
        CheckpointError: no run, one that is not finished, or a damaged one.
    """
    described = read_run(run_dir)
    models = models or run_dir
    if described["config"]["encoder"] == DIFFUSION:
        return DiffRec.load(models / "diffusion", device=device)
    return PDRec.load(models / "model", device=device)
