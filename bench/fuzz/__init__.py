"""Damaged and made-up files for everything that reads one: ``python -m bench.fuzz``."""
