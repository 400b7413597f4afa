"""The time-interval diffusion recommender and its relatives."""

from pdrec_fast.diffusion.config import DiffusionConfig
from pdrec_fast.diffusion.estimator import DiffRec

__all__ = ["DiffRec", "DiffusionConfig"]
