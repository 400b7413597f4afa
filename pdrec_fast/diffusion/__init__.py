"""The time-interval diffusion recommender and its relatives."""

from pdrec_fast.diffusion.codigem import Codigem, CodigemConfig
from pdrec_fast.diffusion.config import DiffusionConfig
from pdrec_fast.diffusion.estimator import DiffRec
from pdrec_fast.diffusion.latent import LatentConfig, LatentDiffRec
from pdrec_fast.diffusion.linear import LinearConfig, LinearDenoiser

__all__ = [
    "Codigem",
    "CodigemConfig",
    "DiffRec",
    "DiffusionConfig",
    "LatentConfig",
    "LatentDiffRec",
    "LinearConfig",
    "LinearDenoiser",
]
