"""A finished run, brought up to date on data that has grown."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from pdrec_fast.pipeline import UPDATE_SETTINGS
from pdrec_fast.pipeline.updating import update_config
from tests.pipeline.conftest import FAST, fast_config
from tests.test_pipeline import command
from tests.test_saved import SAVED, VERSIONS


@pytest.fixture(scope="module")
def updated(data, old_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("updated") / "run"
    return out, pf.update(old_run, data, out=out, progress=False)


def test_every_part_of_a_run_is_of_the_new_data(data, old_data, updated):
    assert old_data.n_users < data.n_users
    assert old_data.n_items < data.n_items
    out, result = updated
    train = pf.leave_one_out(data).train.fingerprint()
    for model in (result.diffusion, result.model, result.model.fusion.guides["linear"]):
        assert model.trained_on == train
    assert result.model.data.fingerprint() == data.fingerprint()
    new_users = [user for user in data.user_ids if user not in set(old_data.user_ids)]
    items, _ = pf.PDRec.load(out / "model").recommend(new_users, k=3)
    assert items.shape == (len(new_users), 3)
    assert result.model.fusion.shares.keys() == {"guide", "linear"}
    assert result.metrics["dataset"]["users"] == data.n_users


def test_trainings_begin_with_the_old_weights(data, old_run, updated):
    """One epoch's loss from there is below that of the first epoch from scratch."""
    scratch = pf.run(data, fast_config(), progress=False)
    for name in ("diffusion", "encoder"):
        first = updated[1].metrics["history"][name]["losses"][0]
        assert first < scratch.metrics["history"][name]["losses"][0]


def test_fewer_epochs_than_the_run_had_and_settings_of_ones_own(data, old_data, tmp_path):
    long = {"pdrec.epochs": 50, "pdrec.patience": 9, "diffusion.epochs": 2}
    config = pf.with_settings(fast_config(), long)
    assert UPDATE_SETTINGS["pdrec.epochs"] < 50
    found = update_config(config, {"pdrec.lr": 0.01})
    assert found.pdrec.epochs == UPDATE_SETTINGS["pdrec.epochs"]
    assert found.pdrec.patience == UPDATE_SETTINGS["pdrec.patience"]
    assert found.diffusion.epochs == 2
    assert found.pdrec.lr == 0.01
    assert update_config(config, {"pdrec.epochs": 99}).pdrec.epochs == 99


def test_an_update_of_an_update_has_the_epochs_of_the_first_run(data, updated, tmp_path):
    out, _ = updated
    marker = json.loads((out / "run.json").read_text())
    assert marker["warm start"]["config"]["pdrec"]["patience"] == 5
    assert marker["config"]["pdrec"]["patience"] == 2
    again = pf.update(out, data, settings={"pdrec.epochs": 1}, out=tmp_path / "b", progress=False)
    marker = json.loads((tmp_path / "b" / "run.json").read_text())
    assert marker["warm start"]["config"]["pdrec"]["patience"] == 5
    assert again.metrics["epochs"]["encoder"]["trained"] == 1


def test_the_same_update_is_not_done_again_and_another_start_is_refused(
    data, old_data, old_run, updated, tmp_path
):
    out, result = updated
    again = pf.update(old_run, data, out=out, progress=False)
    assert again.metrics["protocols"] == result.metrics["protocols"]
    assert again.metrics["seconds"]["encoder"] == result.metrics["seconds"]["encoder"]
    pf.run(old_data, fast_config(pdrec__seed=1), out=tmp_path / "other", progress=False)
    with pytest.raises(pf.CheckpointError, match=r"warm start\.models\.model \("):
        pf.update(tmp_path / "other", data, out=out, progress=False)
    with pytest.raises(pf.CheckpointError, match="holds a run with other"):
        pf.run(data, fast_config(), out=out, progress=False)


def test_on_the_command_line(data, old_run, updated, write_csv, tmp_path):
    path = write_csv(data)
    arguments = ("update", "--run", old_run, "--data", path, "--quiet", "--threads", 1)
    result = command(*arguments, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "sasrec+fusion" in result.stdout
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["protocols"] == updated[1].metrics["protocols"]
    again = command("evaluate", "--run", tmp_path / "out", "--json")
    assert json.loads(again.stdout) == metrics["protocols"]
    refused = command(*arguments, "--out", old_run)
    assert refused.returncode == 1
    assert "is the run to update; choose another directory" in refused.stderr


def test_a_run_of_the_paper_modules_guided_by_an_encoder(data, old_data, tmp_path):
    config = fast_config(modules=("hbr", "dpa", "nns"))
    config = replace(config, guide="sasrec")
    pf.run(old_data, config, out=tmp_path / "old", progress=False)
    result = pf.update(tmp_path / "old", data, progress=False)
    assert result.guide.data.n_items == result.preferences.n_items == data.n_items


def test_the_diffusion_model_alone(data, old_data, tmp_path):
    config = pf.with_settings(pf.RunConfig(encoder="diffusion"), FAST)
    pf.run(old_data, config, out=tmp_path / "old", progress=False)
    result = pf.update(tmp_path / "old", data, progress=False)
    assert result.model is None
    assert result.diffusion.trained_on == pf.leave_one_out(data).train.fingerprint()


def test_runs_that_cannot_be_updated_are_named(data, old_data, old_run, tmp_path):
    with pytest.raises(pf.CheckpointError, match="no run is here"):
        pf.update(tmp_path, data, progress=False)
    unfinished = shutil.copytree(old_run, tmp_path / "unfinished")
    (unfinished / "metrics.json").unlink()
    with pytest.raises(pf.CheckpointError, match="the run is not finished; give its command"):
        pf.update(unfinished, data, progress=False)
    with pytest.raises(ValueError, match="no such setting"):
        pf.update(old_run, data, settings={"pdrec.speed": 1}, progress=False)
    for wider in ({"encoder.width": 16}, {"diffusion.hidden": (32,)}):
        with pytest.raises(ValueError, match="in the model to start from"):
            pf.update(old_run, data, settings=wider, out=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()
    others = pf.Interactions.from_arrays(
        data.record_users, 10_000 + data.items.astype(np.int64), data.timestamps
    )
    with pytest.raises(ValueError, match=r"none of .* items .* is among"):
        pf.update(old_run, others, progress=False)


def test_a_split_by_time_needs_new_times_and_later_ones(data, old_data, tmp_path):
    times = np.quantile(old_data.timestamps, [0.7, 0.85]).tolist()
    config = replace(fast_config(), split=pf.SplitSpec(*times))
    pf.run(old_data, config, out=tmp_path / "old", progress=False)
    with pytest.raises(ValueError, match=r"was split by time; give the times .* --valid-from"):
        pf.update(tmp_path / "old", data, progress=False)
    early = pf.SplitSpec(*np.quantile(old_data.timestamps, [0.4, 0.6]).tolist())
    with pytest.raises(pf.DataError, match=r"\d+ of \d+ records that the new split holds out were"):
        pf.update(tmp_path / "old", data, split=early, progress=False)
    later = pf.SplitSpec(*np.quantile(data.timestamps, [0.8, 0.9]).tolist())
    result = pf.update(tmp_path / "old", data, split=later, progress=False)
    assert result.metrics["config"]["split"]["valid_from"] == later.valid_from


def test_what_the_old_model_was_trained_on_is_not_tested(data, old_data, tmp_path):
    """Two records of a user were too few to hold one out; with a third, the second is."""
    first = old_data.item_ids[:2]
    last = old_data.timestamps.max()
    short = pf.Interactions.from_arrays(
        np.append(old_data.user_ids[old_data.record_users], ["short"] * 2),
        np.append(old_data.item_ids[old_data.items], first),
        np.append(old_data.timestamps, [last, last]),
    )
    third = pf.Interactions.from_arrays(
        np.append(short.user_ids[short.record_users], "short"),
        np.append(short.item_ids[short.items], old_data.item_ids[2]),
        np.append(short.timestamps, last),
    )
    pf.run(short, fast_config(modules=()), out=tmp_path / "old", progress=False)
    result = pf.update(tmp_path / "old", third, out=tmp_path / "new", progress=False)
    whole = pf.leave_one_out(third)
    (user,) = third.user_index("short")
    assert user in whole.valid.users
    assert user not in result.split.valid.users
    assert user in result.split.test.users
    assert len(result.split.valid) == len(whole.valid) - 1
    # Nor later, though the update itself was not trained on it.
    again = pf.update(tmp_path / "new", third, out=tmp_path / "newer", progress=False)
    assert user not in again.split.valid.users
    told = "no valid case, the former model was trained on it: 1 users ('short')"
    assert f"  {told}" in result.metrics["split"]
    again = command("evaluate", "--run", tmp_path / "new", "--json")
    assert json.loads(again.stdout) == result.metrics["protocols"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_of_an_older_version_is_updated(version):
    run = SAVED / version / "run"
    old = pf.PDRec.load(run / "model", device="cpu").data
    users = np.append(old.user_ids[old.record_users], old.user_ids[0])
    items = np.append(old.item_ids[old.items], "new" if old.item_ids.dtype == object else 10**6)
    times = np.append(old.timestamps, old.timestamps.max() + 1)
    grown = pf.Interactions.from_arrays(users, items, times)
    result = pf.update(run, grown, settings={"pdrec.epochs": 1}, progress=False)
    assert result.model.data.n_items == old.n_items + 1
    assert torch.isfinite(result.model.encoder.item_embedding.weight).all()
