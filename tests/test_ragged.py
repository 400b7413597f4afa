import numpy as np
import pytest

import pdrec_fast.ragged
from pdrec_fast.ragged import Ragged, indptr_of, nth_absent, ranges, row_indices, unique_in_rows

VALUES = np.array([5, 6, 7, 8, 9], dtype=np.int32)


@pytest.fixture
def ragged():
    return Ragged.from_lengths(VALUES, np.array([2, 0, 3]))


def test_lengths_starts_and_rows(ragged):
    assert ragged.n_rows == 3
    assert ragged.indptr.tolist() == [0, 2, 2, 5]
    assert ragged.lengths.tolist() == [2, 0, 3]
    assert ragged.starts.tolist() == [0, 2, 2]
    assert ragged.row_indices.tolist() == [0, 0, 2, 2, 2]


def test_a_block_of_rows_is_a_view(ragged):
    block = ragged.rows(slice(1, 3))
    assert block.indptr.tolist() == [0, 0, 3]
    assert block.values.tolist() == [7, 8, 9]
    assert np.shares_memory(block.values, VALUES)
    assert ragged.rows(slice(3, 3)).n_rows == 0
    with pytest.raises(ValueError, match="contiguous"):
        ragged.rows(slice(0, 3, 2))


def test_no_rows():
    empty = Ragged.from_lengths(VALUES[:0], np.zeros(0, dtype=np.int64))
    assert empty.n_rows == 0
    assert len(empty.row_indices) == 0


def test_offsets_are_64_bits_wide_whatever_the_lengths():
    assert indptr_of(np.array([2**31 - 1, 2**31 - 1], dtype=np.int32))[-1] == 2**32 - 2
    assert row_indices(indptr_of(np.array([], dtype=np.int32))).dtype == np.int64


def test_row_indices():
    rows = row_indices(np.array([0, 2, 2, 3]))
    assert (rows.tolist(), rows.dtype) == ([0, 0, 2], np.int64)
    assert row_indices(np.array([0])).tolist() == []


def test_ranges_are_those_of_a_loop():
    starts, lengths = np.array([7, 0, 3]), np.array([2, 0, 3])
    assert ranges(starts, lengths).tolist() == [7, 8, 3, 4, 5]
    assert ranges(np.array([4, 0, 9]), np.array([3, 0, 2])).tolist() == [4, 5, 6, 9, 10]
    empty = np.zeros(0, dtype=np.int64)
    assert ranges(empty, empty).tolist() == []


def test_the_nth_number_that_a_row_lacks() -> None:
    rows = Ragged.from_lengths(np.array([0, 1, 4, 2, 0, 1, 2, 3, 4]), np.array([3, 1, 0, 5]))
    lacking = {0: [2, 3, 5], 1: [0, 1, 3, 4, 5], 2: [0, 1, 2, 3, 4, 5], 3: [5]}
    for row, numbers in lacking.items():
        nth = np.arange(len(numbers))
        assert nth_absent(rows, np.full(len(nth), row), nth, 6).tolist() == numbers
    both = nth_absent(rows, np.array([[0], [1]]), np.array([[0, 2], [1, 4]]), 6)
    assert both.tolist() == [[2, 5], [1, 5]]


@pytest.mark.parametrize("entries", [1, 4, 1 << 20])
def test_unique_numbers_of_rows_do_not_depend_on_how_many_rows_are_taken_at_once(
    entries, monkeypatch
):
    monkeypatch.setattr(pdrec_fast.ragged, "_ENTRIES_PER_BLOCK", entries)
    values = np.array([3, 1, 3, 0, 2, 2, 2, 2, 2, 1, 0, 4], dtype=np.int32)
    found = unique_in_rows(Ragged.from_lengths(values, np.array([0, 3, 1, 5, 0, 3, 0])), 5)
    assert found.values.tolist() == [1, 3, 0, 2, 0, 1, 4]
    assert found.values.dtype == np.int32
    assert found.lengths.tolist() == [0, 2, 1, 1, 0, 3, 0]
    none = unique_in_rows(Ragged.from_lengths(values[:0], np.zeros(2, dtype=np.int64)), 5)
    assert (none.values.tolist(), none.indptr.tolist()) == ([], [0, 0, 0])
