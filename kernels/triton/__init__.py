"""Triton kernels, one file per operation, and their launchers."""
