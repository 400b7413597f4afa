"""Rates and traces of the stages of a run."""

import gzip
import json
import time

import numpy as np
import pytest

import pdrec_fast as pf
from pdrec_fast import profiling
from pdrec_fast.data import leave_one_out, synthetic
from pdrec_fast.preferences import Preferences
from pdrec_fast.profiling import Profile, span, unit
from pdrec_fast.training import PDRec


def test_without_a_profile_nothing_is_recorded():
    with unit("stage", users=3), span("part"):
        pass
    assert profiling._active is None


def test_counts_seconds_and_the_traced_unit(tmp_path):
    with Profile(tmp_path / "new" / "folder") as profile:
        for _ in range(3):
            with unit("slow", users=2, tokens=5, items=70):
                with span("asleep"):
                    time.sleep(0.02)
                with span("awake"):
                    pass
        with unit("quick"):
            pass
    slow = profile.stages["slow"]
    assert (slow.units, slow.users, slow.tokens, slow.items) == (3, 6, 15, 210)
    assert 0.06 <= slow.seconds < 1
    assert 0.02 <= profile.ranges["slow"]["asleep"] <= profile.ranges["slow"]["slow"]
    assert profile.ranges["slow"]["awake"] < 0.02
    with gzip.open(profile.folder / "slow.trace.json.gz", "rt") as stream:
        events = json.load(stream)["traceEvents"]
    asleep = [event for event in events if event["name"] == "pdrec_fast::asleep"]
    assert len(asleep) == 1  # one unit's, not three's
    written = json.loads((profile.folder / "profile.json").read_text())
    assert written["stages"]["slow"]["items"] == 210
    table = profile.table().splitlines()
    heading = ["stage", "units", "seconds", "share", "users/s", "tokens/s", "items", "scored/s"]
    assert table[0].split() == heading
    rates = table[1].split()
    assert rates[:2] == ["slow", "3"]
    assert float(rates[4].replace(",", "")) == pytest.approx(6 / slow.seconds, abs=1)
    assert table[2].split()[0] == "asleep"
    assert table[4].split()[-3:] == ["-", "-", "-"]
    assert table == profile.table().splitlines()


def test_one_profile_at_a_time_and_none_after_an_error(tmp_path):
    with Profile(tmp_path), pytest.raises(RuntimeError, match="active already"), Profile(tmp_path):
        pass
    with pytest.raises(KeyError), Profile(tmp_path), unit("fails"):
        raise KeyError
    assert profiling._active is None
    with Profile(tmp_path) as empty:
        pass
    assert "nothing ran" in empty.table()


def test_stages_count_what_they_do(tmp_path):
    split = leave_one_out(synthetic(40, 200, seed=1))
    train, n_items = split.train, split.train.n_items
    with Profile(tmp_path) as profile:
        diffusion = pf.DiffRec(hidden=(4,), epochs=2, device="cpu").fit(split, progress=False)
        preferences = Preferences.infer(
            diffusion, train, top_m=3, n_draws=4, block_size=16, progress=False
        )
        model = PDRec(epochs=3, dpa_top_n=2, device="cpu", encoder_options={"width": 4})
        model.fit(split, preferences, progress=False)
    stages = profile.stages
    assert {name: stage.units for name, stage in stages.items()} == {
        "diffusion": 2,
        "evaluation": 5,
        "preferences": 3,
        "encoder": 3,
    }
    assert stages["diffusion"].users == 80
    assert stages["diffusion"].tokens == 2 * len(train.unique_items().values)
    assert stages["diffusion"].items == 80 * n_items
    assert (stages["preferences"].users, stages["preferences"].items) == (40, 40 * n_items)
    assert stages["evaluation"].items == 5 * len(split.valid) * 100
    n_tokens = int((np.diff(train.indptr) - 1).clip(0, 200).sum())
    n_users = int((np.diff(train.indptr) >= 2).sum())
    assert (stages["encoder"].users, stages["encoder"].tokens) == (3 * n_users, 3 * n_tokens)
    assert stages["encoder"].items == 3 * (n_tokens * 3 + n_users * 3)
    assert {"forward", "backward", "optimizer"} <= set(profile.ranges["diffusion"])
    assert {"negatives", "batch", "encode", "ranking loss", "distillation loss"} <= set(
        profile.ranges["encoder"]
    )
    assert {"scores", "selection", "draws"} <= set(profile.ranges["preferences"])
