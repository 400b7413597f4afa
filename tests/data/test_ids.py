import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdrec_fast.data.ids import rank_ids, rank_integers

INT64 = np.iinfo(np.int64)


@given(
    st.lists(st.one_of(st.integers(-3, 9), st.integers(INT64.min, INT64.max)), min_size=1),
    st.integers(1, 3),
)
def test_rank_integers_is_numpys_unique(ids, step):
    ids = np.array(ids, np.int64)[::step]
    ranks, distinct = rank_integers(ids)
    expected, inverse = np.unique(ids, return_inverse=True)
    assert ranks.dtype == distinct.dtype == np.int64
    assert distinct.tolist() == expected.tolist()
    assert ranks.tolist() == inverse.tolist()


def test_rank_integers_of_a_dense_range():
    ranks, distinct = rank_integers(np.array([7, -1, 7, 3, 4]))
    assert (ranks.tolist(), distinct.tolist()) == ([3, 0, 3, 1, 2], [-1, 3, 4, 7])


@pytest.mark.parametrize(
    ("names", "ids", "ranks"),
    [
        (["10", "9", "-1"], [-1, 9, 10], [1, 2, 0, 1]),
        (["10", "9", "01"], ["01", "10", "9"], [2, 1, 0, 2]),
        (["10", "9", str(2**63)], ["10", "9", str(2**63)], [1, 0, 2, 1]),
    ],
)
def test_rank_ids(names, ids, ranks):
    codes = np.array([1, 0, 2, 1], np.int32)
    ranked, sorted_ids = rank_ids(codes, names)
    assert (ranked.tolist(), sorted_ids.tolist()) == (ranks, ids)
    assert ranked.dtype == np.int64
    assert sorted_ids.dtype == (np.int64 if isinstance(ids[0], int) else object)
