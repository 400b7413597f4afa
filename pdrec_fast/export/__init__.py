"""Models for other programs: traced programs, item matrices, id tables, nearest neighbours."""

from pdrec_fast.export.nearest import ItemIndex
from pdrec_fast.export.writing import export_model

__all__ = ["ItemIndex", "export_model"]
