"""PDRec's objective and trainer."""

from pdrec_fast.training.config import MODULES, Module, PDRecConfig
from pdrec_fast.training.pdrec import PDRec

__all__ = ["MODULES", "Module", "PDRec", "PDRecConfig"]
