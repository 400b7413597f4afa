"""Ranks in tiles of cases by items: those of the whole rows of scores."""

import numpy as np
import pytest
import torch

from pdrec_fast.errors import NonFiniteScoresError
from pdrec_fast.evaluation import Evaluator, tiles
from pdrec_fast.evaluation.tiles import ranks_in_tiles
from pdrec_fast.ops.selection.project import project


class Products:
    """Small whole numbers, so that products are exact and many scores tie."""

    has_user_vectors = True

    def __init__(self, data):
        random = torch.Generator().manual_seed(0)
        self.table = torch.randint(-2, 3, (data.n_items, 4), generator=random).float()
        self.users = torch.randint(-2, 3, (data.n_users, 4), generator=random).float()
        self.offsets = torch.zeros(data.n_items)
        self.offsets[::5] = -torch.inf

    @property
    def item_vectors(self):
        return self.table, self.offsets

    def user_vectors(self, histories):
        return self.users[torch.from_numpy(histories.users)]

    def scores(self, histories, items=None):
        assert items is None
        return project(self.user_vectors(histories), *self.item_vectors)


@pytest.fixture
def expected(split):
    return Evaluator(split).ranks(Products(split.data), "full", "test")


@pytest.fixture
def tiled(monkeypatch, expected):
    """Every corpus counts as large; tiles are 13 items wide."""
    monkeypatch.setattr(tiles, "_ENOUGH_ROWS", 1 << 40)
    monkeypatch.setattr(tiles, "_SCORES_PER_TILE", 13 * 60)


def check(found, expected):
    assert found.equal.sum() > 0
    for name in ("greater", "equal", "candidates"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("block_size", [None, 7])
def test_ranks_are_those_of_whole_rows(split, expected, tiled, monkeypatch, block_size):
    scorer = Products(split.data)
    monkeypatch.setattr(scorer, "scores", None)  # is not asked
    check(Evaluator(split, block_size=block_size).ranks(scorer, "full", "test"), expected)


def test_a_product_that_rounds_otherwise_with_few_items_changes_no_rank(
    split, expected, tiled, monkeypatch
):
    calls = []

    def rounding(vectors, table, offsets):
        calls.append(len(table))
        factor = 1 + 2**-20 if len(table) == len(vectors) else 1
        return project(vectors, table, offsets) * factor

    monkeypatch.setattr(tiles, "project", rounding)
    check(Evaluator(split).ranks(Products(split.data), "full", "test"), expected)
    n_tiles = -(-split.data.n_items // 13)
    assert len(calls) == 1 + 2 * n_tiles  # counted again with the scores that the tiles have


def test_nan_is_refused(split, tiled):
    scorer = Products(split.data)
    scorer.table[30] = torch.nan
    with pytest.raises(NonFiniteScoresError, match=r"Products: .*user '1000' are NaN"):
        Evaluator(split).ranks(scorer, "full", "test")


def test_which_scorers_rank_in_tiles(split):
    scorer = Products(split.data)
    assert ranks_in_tiles(scorer, 1_000_000)
    assert not ranks_in_tiles(scorer, 10_000)
    assert not ranks_in_tiles(object(), 1_000_000)
    scorer.device = torch.device("cuda")
    assert not ranks_in_tiles(scorer, 1_000_000)
