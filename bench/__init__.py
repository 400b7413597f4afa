"""Benchmarks: every operation against its reference, its baselines and what the machine allows.

``python -m bench --help`` says how to run them. Not part of the installed package.
"""
