from typing import Any

import numpy as np
import pytest

from pdrec_fast.preferences.joined_rows import JoinedRows

WHOLE = np.arange(44, dtype=np.int32).reshape(11, 4)
JOINED = JoinedRows([WHOLE[:3], WHOLE[3:3], WHOLE[3:4], WHOLE[4:]])
KEYS: list[Any] = [
    7,
    -1,
    np.int32(3),
    slice(None),
    slice(9, 1, -3),
    slice(2, 2),
    [],
    [10, 0, 3, 3, -11],
    np.array([[1, 9], [4, 2]]),
    np.arange(11) % 3 == 0,
    (slice(1, 6), slice(2)),
    ([8, 1], slice(1, 3)),
    (5, 2),
    (np.array([[2], [10]]), np.array([[0, 3, 1]])),
    (np.arange(11) > 7, 2),
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_indices_are_those_of_one_array(key: Any) -> None:
    found, expected = JOINED[key], WHOLE[key]
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)


def test_it_is_an_array_where_one_is_needed() -> None:
    assert (JOINED.shape, JOINED.dtype, JOINED.ndim, len(JOINED)) == ((11, 4), np.int32, 2, 11)
    np.testing.assert_array_equal(np.asarray(JOINED), WHOLE)
    assert np.asarray(JOINED, dtype=np.float64).dtype == np.float64
    one = JoinedRows([np.arange(3.0), np.arange(2.0)])
    np.testing.assert_array_equal(one[[4, 0]], [1, 0])


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (11, "row 11 of 11"),
        ([0, -12], "row -12 of 11"),
        (np.ones(4, bool), r"mask of 11 rows has shape \(4,\)"),
        ([0.5], "float64"),
        ((slice(3), 1), "integers go with|go with integers"),
        (([1, 2], np.ones(4, bool)), "go with integers"),
    ],
)
def test_wrong_indices_are_named(key: Any, text: str) -> None:
    with pytest.raises(IndexError, match=text):
        JOINED[key]
