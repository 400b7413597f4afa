"""Data for runs of seconds, and a run of them."""

import csv
from dataclasses import replace

import numpy as np
import pytest

import pdrec_fast as pf

FAST = {
    "diffusion.epochs": 3,
    "diffusion.hidden": 16,
    "diffusion.eval_every": 1,
    "diffusion.select_by": "full",
    "pdrec.epochs": 3,
    "pdrec.select_by": "full",
    "encoder.width": 8,
    "n_draws": 16,
    "top_m": 5,
}


def fast_config(*, final=False, **settings):
    """Settings by dotted key, with ``__`` for the dot."""
    own = {key.replace("__", "."): value for key, value in settings.items()}
    modules = own.pop("modules", ("fusion",))
    config = pf.RunConfig.from_preset("default", modules=modules)
    return replace(pf.with_settings(config, FAST | own), final=final)


@pytest.fixture(scope="session")
def data():
    made = pf.synthetic(n_users=120, n_items=260, seed=3)
    users = np.array([f"u{user}" for user in made.record_users], dtype=object)
    return pf.Interactions.from_arrays(users, made.item_ids[made.items], made.timestamps)


@pytest.fixture(scope="session")
def old_data(data):
    """The oldest four fifths of the records, as they were then."""
    early = data.timestamps < np.quantile(data.timestamps, 0.8)
    users, items = data.user_ids[data.record_users[early]], data.item_ids[data.items[early]]
    return pf.Interactions.from_arrays(users, items, data.timestamps[early])


@pytest.fixture(scope="session")
def old_run(old_data, tmp_path_factory):
    """The directory of a finished run of ``old_data``."""
    out = tmp_path_factory.mktemp("old") / "run"
    pf.run(old_data, fast_config(), out=out, progress=False)
    return out


@pytest.fixture(scope="session")
def write_csv(tmp_path_factory):
    """``write_csv(data)`` is a file of them."""

    def write(interactions):
        path = tmp_path_factory.mktemp("data") / "clicks.csv"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["user_id", "item_id", "timestamp"])
            users = interactions.user_ids[interactions.record_users]
            items = interactions.item_ids[interactions.items]
            writer.writerows(zip(users, items, interactions.timestamps, strict=True))
        return path

    return write
