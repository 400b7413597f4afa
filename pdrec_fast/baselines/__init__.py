"""Recommenders that need no training: what a model must be better than, and guides besides."""

from pdrec_fast.baselines.item_knn import ItemKNN, ItemKNNConfig

__all__ = ["ItemKNN", "ItemKNNConfig"]
