"""The counts of the paper's Table 2 and what is known of its data sets."""

import numpy as np
import pytest

from pdrec_fast.data import Interactions, leave_one_out

# What Toy really holds; tests/data/test_interactions.py tests the warning.
pytestmark = pytest.mark.filterwarnings("ignore:.* repeat the one before")


@pytest.mark.parametrize(
    ("name", "users", "items", "records"),
    [("toy.inter", 7_996, 37_868, 114_487), ("book.inter", 12_170, 33_697, 514_015)],
)
def test_counts(real_data, name, users, items, records):
    data = Interactions.from_file(real_data(name))
    assert (data.n_users, data.n_items, data.n_records) == (users, items, records)
    assert data.timestamps is not None
    assert data.user_ids.tolist() == list(range(1, users + 1))


def test_toy(real_data):
    data = Interactions.from_file(real_data("toy.inter"))
    lengths = np.diff(data.indptr)
    assert (lengths.max(), np.median(lengths), round(lengths.mean(), 1)) == (480, 8, 14.3)
    assert data.n_records - len(data.unique_items().values) == 3_651

    split = leave_one_out(data)
    train = split.train
    one_day = train.timestamps[train.indptr[:-1]] == train.timestamps[train.indptr[1:] - 1]
    assert round(one_day.mean(), 3) == 0.176
    cold = ~np.isin(split.test.targets, train.items)
    assert 0.27 < cold.mean() < 0.29


def test_toy_keeps_the_order_of_the_file(real_data):
    path = real_data("toy.inter")
    data = Interactions.from_file(path)
    rows = np.loadtxt(path, dtype=np.int64, skiprows=1, delimiter="\t")
    order = np.argsort(rows[:, 0], kind="stable")
    assert (data.item_ids[data.items] == rows[order, 1]).all()
