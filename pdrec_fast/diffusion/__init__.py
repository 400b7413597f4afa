"""The time-interval diffusion recommender and its relatives."""

from pdrec_fast.diffusion.config import DiffusionConfig
from pdrec_fast.diffusion.estimator import DiffRec
from pdrec_fast.diffusion.linear import LinearConfig, LinearDenoiser

__all__ = ["DiffRec", "DiffusionConfig", "LinearConfig", "LinearDenoiser"]
