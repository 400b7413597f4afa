import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdrec_fast.data.ordering import chronological_order, stable_order

INT64 = np.iinfo(np.int64)
EXACT = 2**53

times = st.one_of(
    st.integers(0, 3).map(float),
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, float(EXACT), -float(EXACT)]),
    st.floats(-EXACT, EXACT),
)


@given(
    st.lists(st.one_of(st.integers(0, 3), st.integers(0, 2**17), st.integers(INT64.min, INT64.max)))
)
def test_stable_order_is_numpys(keys):
    keys = np.array(keys, np.int64)
    order = stable_order(keys)
    assert order.dtype == np.int64
    assert order.tolist() == np.argsort(keys, kind="stable").tolist()


@pytest.mark.parametrize("top", [2**16 - 1, 2**16, 2**32, 2**48 + 3, 2**63 - 1])
def test_stable_order_of_many_keys(top):
    keys = np.random.default_rng(0).integers(0, top, 10_001, endpoint=True)[::3]
    keys[::5] = keys[0]
    assert (stable_order(keys) == np.argsort(keys, kind="stable")).all()


def test_stable_order_of_the_widest_range():
    assert stable_order(np.array([INT64.max, 0, INT64.min, -1])).tolist() == [2, 3, 1, 0]


@given(st.lists(st.tuples(st.integers(0, 4), times)))
def test_chronological_order_is_lexsort(records):
    users = np.array([user for user, _ in records], np.int64)
    stamps = np.array([time for _, time in records], np.float64)
    order = chronological_order(users, stamps)
    assert order.dtype == np.int64
    assert order.tolist() == np.lexsort((stamps, users)).tolist()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from([INT64.min, -1, 0, 1, INT64.max]),
            st.integers(0, 10**18 - 1) | st.integers(0, 2),
        )
    )
)
def test_parts_decide_between_equal_times(records):
    users, whole, parts = np.array(records, np.int64).reshape(-1, 3).T
    order = chronological_order(users, whole, parts)
    assert order.tolist() == np.lexsort((parts, whole, users)).tolist()
    assert (
        chronological_order(users[order], whole[order], parts[order]) == range(len(users))
    ).all()


@pytest.mark.parametrize("scale", [1, 0.37])
def test_chronological_order_of_many_records(scale):
    random = np.random.default_rng(0)
    users = random.integers(0, 70_001, 20_003)
    stamps = random.integers(-5_000, 1_500_000_000, 20_003) * scale
    stamps[::7] = stamps[0]
    assert (chronological_order(users, stamps) == np.lexsort((stamps, users))).all()


def test_both_zeros_are_one_time():
    stamps = np.array([0.0, -0.0, 0.5, 0.0, -0.5])
    assert chronological_order(np.zeros(5, np.int64), stamps).tolist() == [4, 0, 1, 3, 2]


def test_without_times_records_keep_their_order():
    assert chronological_order(np.array([2, 0, 2, 1, 0]), None).tolist() == [1, 4, 3, 0, 2]
