"""Sparse time-interval rows: by hand, and against a dense loop."""

import numpy as np
import pytest
import torch

from pdrec_fast.data import Histories
from pdrec_fast.diffusion.inputs import SparseRows, interaction_rows


def make_histories(sequences, times=None, n_items=8):
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    stops = np.cumsum(lengths)
    return Histories(
        items=np.array([item for sequence in sequences for item in sequence], dtype=np.int32),
        timestamps=None if times is None else np.array([t for row in times for t in row], float),
        users=np.arange(len(sequences)),
        starts=stops - lengths,
        stops=stops,
        n_items=n_items,
    )


def rows_of(sparse):
    bounds = zip(sparse.indptr[:-1], sparse.indptr[1:], strict=True)
    return [
        dict(zip(sparse.items[a:b].tolist(), sparse.values[a:b].tolist(), strict=True))
        for a, b in bounds
    ]


def test_interval_rows_by_hand():
    histories = make_histories(
        [[5, 2, 7], [], [3], [4, 1]], [[10, 20, 50], [], [9], [30, 30]], n_items=8
    )
    rows = interaction_rows(histories, weighting="interval", w_min=0.5, w_max=1.0)
    # t_p = t_1 in the last two rows: all w_max.
    assert rows_of(rows) == [{2: 0.625, 5: 0.5, 7: 1.0}, {}, {3: 1.0}, {1: 1.0, 4: 1.0}]
    assert rows.items.tolist() == [2, 5, 7, 3, 1, 4]
    assert rows.indptr.tolist() == [0, 3, 3, 4, 6]
    assert (rows.items.dtype, rows.values.dtype) == (np.int32, np.float32)
    assert (len(rows), rows.n_items) == (4, 8)


def test_last_weight_of_a_repeated_item_wins():
    histories = make_histories([[1, 6, 1, 6, 0], [2, 2, 2]], [[0, 1, 2, 3, 4], [0, 5, 10]])
    rows = interaction_rows(histories, weighting="interval", w_min=0.0, w_max=1.0)
    assert rows_of(rows) == [{0: 1.0, 1: 0.5, 6: 0.75}, {2: 1.0}]


@pytest.mark.parametrize("weighting", ["rank", "interval"])
def test_without_timestamps_the_weights_go_by_rank(weighting):
    histories = make_histories([[3, 1, 2], [4]])
    rows = interaction_rows(histories, weighting=weighting, w_min=0.5, w_max=1.0)
    assert rows_of(rows) == [{1: 0.75, 2: 1.0, 3: 0.5}, {4: 0.5}]


def test_without_weighting_every_item_counts_one():
    histories = make_histories([[3, 1, 3], []], [[0, 5, 9], []])
    rows = interaction_rows(histories, weighting="none", w_min=0.1, w_max=0.2)
    assert rows_of(rows) == [{1: 1.0, 3: 1.0}, {}]


@pytest.mark.parametrize("sequences", [[], [[]], [[], [], []]])
def test_no_records_at_all(sequences):
    rows = interaction_rows(
        make_histories(sequences, sequences), weighting="interval", w_min=0.5, w_max=1.0
    )
    assert rows.indptr.tolist() == [0] * (len(sequences) + 1)
    assert rows.dense().shape == (len(sequences), 8)


def random_rows(seed=0, n_items=13, n_rows=17):
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(n_items, size=n).tolist() for n in rng.integers(0, 9, size=n_rows)]
    times = [np.sort(rng.integers(0, 30, size=len(row))).tolist() for row in sequences]
    histories = make_histories(sequences, times, n_items)
    rows = interaction_rows(histories, weighting="interval", w_min=0.25, w_max=2.0)
    return sequences, times, rows


def test_rows_agree_with_a_dense_loop():
    sequences, times, rows = random_rows()
    expected = np.zeros((len(sequences), 13))
    for row, (items, stamps) in enumerate(zip(sequences, times, strict=True)):
        for item, t in zip(items, stamps, strict=True):
            span = stamps[-1] - stamps[0]
            expected[row, item] = 0.25 + 1.75 * (t - stamps[0]) / span if span else 2.0
    torch.testing.assert_close(rows.dense(), torch.tensor(expected).float())
    for start, stop in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
        assert (np.diff(rows.items[start:stop]) > 0).all()


def test_a_subset_of_histories_gives_the_same_rows():
    histories = make_histories([[1, 2], [3, 4, 3], [], [5]], [[0, 1], [0, 1, 3], [], [2]])
    settings = {"weighting": "interval", "w_min": 0.5, "w_max": 1.0}
    chosen = [3, 1]
    whole = interaction_rows(histories, **settings)[np.array(chosen)]
    part = interaction_rows(histories[chosen], **settings)
    assert rows_of(whole) == rows_of(part)
    assert len(rows_of(part)) == 2


def test_indexing_repeats_and_reorders_rows():
    _, _, rows = random_rows()
    index = np.array([4, 0, 16, 4, 9])
    assert torch.equal(rows[index].dense(), rows.dense()[index])
    assert rows[index].n_items == rows.n_items
    assert len(rows[np.array([], dtype=np.int64)]) == 0


def test_coordinates_list_every_value():
    rows = SparseRows(
        np.array([0, 2, 2, 3]), np.array([1, 3, 0], np.int32), np.array([4, 5, 6], np.float32), 5
    )
    row, item, value = rows.coordinates()
    assert row.tolist() == [0, 0, 2]
    assert item.tolist() == [1, 3, 0]
    assert value.tolist() == [4, 5, 6]
    assert (row.dtype, item.dtype, value.dtype) == (torch.int64, torch.int64, torch.float32)


def test_blocks_of_tensors_are_the_same_rows():
    _, _, rows = random_rows()
    tensors = rows.to(torch.device("cpu"))
    assert len(tensors) == len(rows)
    for block in (slice(0, 17), slice(3, 8), slice(16, 40), slice(5, 5)):
        part = tensors[block]
        expected = rows[np.arange(17)[block]]
        assert len(part) == len(expected)
        for found, wanted in zip(part.coordinates(), expected.coordinates(), strict=True):
            assert torch.equal(found, wanted)
        assert part.indptr.tolist() == part.bounds.tolist() == expected.indptr.tolist()
        assert part.items.dtype == torch.int32
