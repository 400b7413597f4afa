"""Data and a scorer for the tests of the protocols."""

import numpy as np
import torch

from pdrec_fast.data import Interactions


def make_data(n_users=60, n_items=211, seed=0):
    """Histories of 3 to 40 items with repeats, all items present in the corpus."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 41, n_users)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, n_items, indptr[-1])
    return Interactions(
        indptr, items, None, np.arange(n_users) + 1000, np.array([f"i{i}" for i in range(n_items)])
    )


class TableScorer:
    """Scores from a fixed table user x item; counts its calls and the largest block."""

    def __init__(self, table):
        self.table = torch.as_tensor(table)
        self.largest_block = 0

    def scores(self, histories, items=None):
        self.largest_block = max(self.largest_block, len(histories))
        rows = self.table[torch.from_numpy(histories.users)]
        return rows if items is None else rows.gather(1, items)


def items_of(data, user):
    return set(data.items[data.indptr[user] : data.indptr[user + 1]].tolist())
