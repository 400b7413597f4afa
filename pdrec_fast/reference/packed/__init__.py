"""Layers on packed sequences of unequal lengths."""
