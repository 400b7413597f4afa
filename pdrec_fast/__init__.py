"""Diffusion-guided sequential recommendation: TI-DiffRec and PDRec with compiled hot paths."""

__version__ = "0.1.0"
