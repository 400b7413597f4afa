"""PDRec's objective and trainer, and its parts for a loop of one's own."""

from pdrec_fast.training.config import MODULES, Module, PDRecConfig
from pdrec_fast.training.guidance import Guidance
from pdrec_fast.training.objective import Objective
from pdrec_fast.training.pdrec import PDRec

__all__ = ["MODULES", "Guidance", "Module", "Objective", "PDRec", "PDRecConfig"]
