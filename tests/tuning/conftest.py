"""Searches that take a second."""

from typing import Any

import pytest

import pdrec_fast as pf
from pdrec_fast.tuning import Search

FIXED: dict[str, Any] = {
    "encoder.width": 8,
    "n_draws": 16,
    "diffusion.hidden": [16],
    "diffusion.epochs": 1,
}


@pytest.fixture(scope="session")
def data():
    made = pf.synthetic(n_users=90, n_items=260, seed=3)
    users, items = made.user_ids[made.record_users], made.item_ids[made.items]
    return pf.Interactions.from_arrays(users, items, made.timestamps)


@pytest.fixture
def search():
    """``search(modules=(), ...)``: a small one."""

    def make(**changes):
        return Search(**({"trials": 3, "epochs": 2, "fixed": FIXED} | changes))

    return make
