"""PDRec, its objective, and its guidance for training loops of your own."""

from pdrec_fast.training.config import MODULES, Module, PDRecConfig
from pdrec_fast.training.guidance import Guidance
from pdrec_fast.training.objective import Objective
from pdrec_fast.training.pdrec import PDRec

__all__ = ["MODULES", "Guidance", "Module", "Objective", "PDRec", "PDRecConfig"]
