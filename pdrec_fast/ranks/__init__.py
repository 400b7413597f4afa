"""One training on many processes: who does what, and what they tell each other."""

from pdrec_fast.ranks.mesh import ALONE, Axis, Mesh, launched, mesh_sizes

__all__ = ["ALONE", "Axis", "Mesh", "launched", "mesh_sizes"]
