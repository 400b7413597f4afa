"""Runs whose encoder trains on preferences that were inferred before, in parts."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import pdrec_fast as pf
from pdrec_fast.preferences.joined_rows import JoinedRows
from tests.pipeline.conftest import FAST
from tests.pipeline.conftest import fast_config as config_of
from tests.test_pipeline import command

MODULES = ("hbr", "dpa", "nns")
SET = [f"--set={key}={value}" for key, value in FAST.items() if key not in ("top_m", "n_draws")]


@pytest.fixture(scope="module")
def inferring(data, tmp_path_factory):
    """A run that inferred its preferences itself, and its directory."""
    out = tmp_path_factory.mktemp("inferring") / "run"
    return pf.run(data, config_of(modules=MODULES), out=out, progress=False), out


@pytest.fixture(scope="module")
def parts(inferring, tmp_path_factory):
    """The same preferences, as several parts."""
    out = tmp_path_factory.mktemp("parts") / "parts"
    sizes = {"block_size": 16, "part_size": 32, "progress": False}
    config, train = config_of(modules=MODULES), inferring[0].split.train
    asked = {"top_m": config.top_m, "n_draws": config.n_draws, "seed": config.pdrec.seed}
    pf.Preferences.infer_parts(inferring[0].diffusion, train, out, **asked, **sizes)
    assert len(list(out.glob("part-*"))) == 4
    return out


@pytest.fixture
def opened(parts):
    return pf.Preferences.open(parts, verify=True)


def test_the_model_is_that_of_a_run_that_inferred_them(
    data, inferring, opened, tmp_path, monkeypatch
):
    config = config_of(modules=MODULES, top_m=9, omega_m=0.1, n_draws=3)

    def put_together(self, dtype=None, copy=None):
        raise AssertionError("all rows were asked for at once")

    monkeypatch.setattr(JoinedRows, "__array__", put_together)
    found = pf.run(data, config, out=tmp_path / "run", preferences=opened, progress=False)
    wanted = inferring[0]
    assert found.model.fingerprint() == wanted.model.fingerprint()
    assert found.metrics["protocols"] == wanted.metrics["protocols"]
    assert found.preferences is opened
    assert found.diffusion is None
    assert found.metrics["diffusion"] is None
    # Its configuration is that of the preferences.
    assert found.metrics["config"] == wanted.metrics["config"]
    assert not (tmp_path / "run" / "preferences").exists()


def test_a_run_goes_on_with_the_same_preferences_alone(data, inferring, opened, tmp_path):
    config, out = config_of(modules=MODULES), tmp_path / "run"
    first = pf.run(data, config, out=out, preferences=opened, progress=False)
    again = pf.run(data, config, out=out, preferences=opened, progress=False)
    assert again.model.fingerprint() == first.model.fingerprint()
    with pytest.raises(pf.CheckpointError, match="a run with other preferences"):
        pf.run(data, config, out=out, progress=False)
    asked = {"top_m": 5, "n_draws": 16, "seed": 7, "progress": False}
    train = inferring[0].split.train
    other = pf.Preferences.infer(inferring[0].diffusion, train, **asked)
    with pytest.raises(pf.CheckpointError, match="a run with other preferences"):
        pf.run(data, config, out=out, preferences=other, progress=False)


def test_a_fused_guide_is_trained_beside_them(data, opened):
    config = config_of(modules=("nns", "fusion"), fusion_guides=("guide",))
    found = pf.run(data, config, preferences=opened, progress=False)
    assert found.diffusion is not None
    assert set(found.model.fusion.shares) == {"guide"}
    assert found.preferences is opened


def test_what_does_not_go_with_them_is_refused(data, old_data, inferring, opened):
    diffusion = inferring[0].diffusion

    def refused(config, error, text, data=data, **more):
        with pytest.raises(error, match=text):
            pf.run(data, config, preferences=opened, progress=False, **more)

    config = config_of(modules=MODULES)
    refused(config, pf.DataError, "inferred on other interactions.*same data", data=old_data)
    refused(config_of(modules=()), ValueError, "no module that would use them")
    refused(config_of(), ValueError, "no module that would use them")  # fusion alone
    refused(replace(config, guide="sasrec"), ValueError, "guide='sasrec' has no effect")
    refused(config, ValueError, "the diffusion model has no effect", diffusion=diffusion)
    refused(replace(config, final=True), ValueError, "final=True.*leave out one")
    wide = config_of(modules=("dpa",), top_m=9, pdrec__dpa_top_n=6)
    refused(wide, ValueError, "dpa_top_n=6 is more than the preferences' top_m=5: infer")
    many = config_of(modules=("nns",), pdrec__safe_negatives=17)
    refused(many, ValueError, "safe_negatives=17 is more than the preferences' n_draws=16")


def test_an_update_needs_new_ones(data, old_data, tmp_path):
    """A run whose preferences were given has no model to infer those of new data."""

    def inferred(data):
        train = pf.leave_one_out(data).train
        popularity, asked = pf.Popularity(train), {"top_m": 5, "n_draws": 16, "progress": False}
        return pf.Preferences.infer(popularity, train, **asked)

    config = config_of(modules=("nns",))
    pf.run(old_data, config, out=tmp_path / "old", preferences=inferred(old_data), progress=False)
    with pytest.raises(ValueError, match=r"its preferences were given; give those of the new"):
        pf.update(tmp_path / "old", data, progress=False)
    preferences = inferred(data)
    new = pf.update(tmp_path / "old", data, preferences=preferences, progress=False)
    assert new.preferences is preferences
    assert new.diffusion is None


def test_the_command(data, write_csv, inferring, parts, tmp_path):
    file = write_csv(data)
    assert command("preferences", "--run", inferring[1], "--out", tmp_path / "p").returncode == 0
    given = "--data", file, "--preferences", tmp_path / "p", "--modules", ",".join(MODULES)
    result = command("run", *given, "--out", tmp_path / "run", "--threads", 1, "--quiet", *SET)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["protocols"] == inferring[0].metrics["protocols"]

    def refused(text, *arguments):
        result = command("run", "--data", file, "--out", tmp_path / "no", *arguments, *SET)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
        assert text in result.stderr
        assert not (tmp_path / "no").exists()

    refused("--set top_m has no effect with --preferences", *given[2:], "--set", "top_m=3")
    refused("nowhere", "--preferences", tmp_path / "nowhere")
    damaged = tmp_path / "damaged"
    shutil.copytree(parts, damaged)
    part = damaged / "part-000002.safetensors"
    whole = part.read_bytes()
    part.write_bytes(whole[:-8] + bytes(8 * [255]))
    refused(f"{part}: damaged; delete it", "--preferences", damaged)
    part.unlink()
    refused("3 of 4 parts are there", "--preferences", damaged)


def test_opening_looks_for_damage_where_asked(parts, tmp_path):
    whole = pf.Preferences.load(parts)
    opened = pf.Preferences.open(parts, verify=True)
    assert isinstance(opened.negatives, JoinedRows)
    assert opened.fingerprint() == whole.fingerprint()
    np.testing.assert_array_equal(opened.top_items, whole.top_items)


def test_a_given_split_has_preferences_too(data, tmp_path):
    """The command infers them on the split that the run was given."""
    given = pf.leave_one_out(data)
    records = [data.user_ids[given.train.record_users], data.item_ids[given.train.items]]
    train = pf.Interactions.from_arrays(*records, given.train.timestamps)
    held_out = []
    for cases in (given.valid, given.test):
        ids = data.user_ids[cases.users], data.item_ids[cases.targets]
        held_out.append(pf.Interactions.from_arrays(*ids, np.full(len(cases), 10.0**12)))
    config = config_of(modules=("nns",))
    split = pf.given_split(train, *held_out)
    wanted = pf.run(split, config, out=tmp_path / "run", progress=False).preferences
    done = command("preferences", "--run", tmp_path / "run", "--out", tmp_path / "parts")
    assert done.returncode == 0, done.stderr
    assert pf.Preferences.load(tmp_path / "parts").fingerprint() == wanted.fingerprint()
