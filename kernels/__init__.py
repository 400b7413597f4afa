"""Compiled kernels, one file per op and device language; imported as ``pdrec_fast.kernels``."""
