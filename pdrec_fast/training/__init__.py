"""PDRec, its objective, and its guidance for training loops of your own."""

from pdrec_fast.training.config import ALL_MODULES, MODULES, Module, PDRecConfig
from pdrec_fast.training.guidance import Guidance
from pdrec_fast.training.objective import Objective
from pdrec_fast.training.pdrec import PDRec

__all__ = ["ALL_MODULES", "MODULES", "Guidance", "Module", "Objective", "PDRec", "PDRecConfig"]
