"""The model that a finished run left."""

from __future__ import annotations

from pathlib import Path

from pdrec_fast.diffusion import DiffRec
from pdrec_fast.errors import CheckpointError
from pdrec_fast.fitting.bundle import bundle_exists
from pdrec_fast.training import PDRec


def check_finished(run_dir: Path) -> None:
    """Raises CheckpointError where no finished run is."""
    if not (run_dir / "run.json").exists():
        raise CheckpointError(f"{run_dir}: no run is here (run.json not found)")
    if not (run_dir / "metrics.json").exists():
        raise CheckpointError(f"{run_dir}: the run is not finished; give its command again")


def model_of(run_dir: Path, device: str) -> PDRec | DiffRec:
    """The recommender of a finished run: its encoder, or its diffusion model alone.

    Raises:
        CheckpointError: no run, one that is not finished, or a damaged one.
    """
    check_finished(run_dir)
    if bundle_exists(run_dir / "model"):
        return PDRec.load(run_dir / "model", device=device)
    return DiffRec.load(run_dir / "diffusion", device=device)
