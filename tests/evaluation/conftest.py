import numpy as np
import pytest

from pdrec_fast.data import leave_one_out
from tests.evaluation.cases import TableScorer, make_data


@pytest.fixture(scope="module")
def split():
    return leave_one_out(make_data())


@pytest.fixture
def scorer(split):
    rng = np.random.default_rng(1)
    shape = (split.data.n_users, split.data.n_items)
    return TableScorer(rng.integers(0, 30, shape).astype(np.float32))
