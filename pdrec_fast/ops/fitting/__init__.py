"""The optimiser's work on a table that few rows of a batch reach."""
