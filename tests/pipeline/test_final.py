"""Final models: trained on all records as the selected ones were on their part."""

import json
import shutil
import warnings

import pytest
import torch

import pdrec_fast as pf
from tests.pipeline.conftest import fast_config
from tests.test_pipeline import command


@pytest.fixture(scope="module")
def final(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("final") / "run"
    return out, pf.run(data, fast_config(final=True, pdrec__epochs=4), out=out, progress=False)


def test_it_sees_every_record_for_the_epochs_that_were_chosen(data, final):
    _, result = final
    selected = result.selected
    assert result.model.trained_on == result.diffusion.trained_on == data.fingerprint()
    assert selected.model.trained_on == pf.leave_one_out(data).train.fingerprint()
    for model, of in ((result.model, selected.model), (result.diffusion, selected.diffusion)):
        assert model.history.epochs == of.history.best_epoch + 1
        assert model.history.validations == {}
    assert result.model.fusion.shares == selected.model.fusion.shares
    assert result.model.trained_items.sum() > selected.model.trained_items.sum()


def test_figures_are_of_the_selection_and_say_so(data, final):
    out, _ = final
    metrics = json.loads((out / "metrics.json").read_text())
    plain = pf.run(data, fast_config(pdrec__epochs=4), progress=False)
    assert metrics["protocols"] == plain.metrics["protocols"]
    assert plain.metrics["final"] is None
    told = metrics["final"]
    assert "every figure of this file is of the selection run's models" in told["note"]
    assert told["records"] == data.n_records
    assert told["epochs"]["encoder"] == metrics["epochs"]["encoder"]["best"]
    assert told["seconds"]["encoder"] > 0


def test_its_own_test_warns(data, final):
    split = pf.leave_one_out(data)
    with pytest.warns(UserWarning, match="was trained on all records, those that it is tested on"):
        final[1].model.evaluate(split, protocols=["full"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        final[1].selected.model.evaluate(split, protocols=["full"])


def test_commands_recommend_by_it_and_test_the_selected(data, final, write_csv, tmp_path):
    out, result = final
    user = data.user_ids[5]
    found = command("recommend", "--run", out, "--user", user, "--format", "json", "-k", 3)
    items, _ = result.model.recommend([user], 3)
    assert [row["item"] for row in json.loads(found.stdout)] == items[0].tolist()
    tested = command("evaluate", "--run", out, "--json")
    assert json.loads(tested.stdout) == result.metrics["protocols"]
    # Another run may take the selected diffusion model, not the final one, which knows the test.
    path = write_csv(data)
    run = ("run", "--data", path, "--out", tmp_path / "a", "--diffusion", out, "--quiet")
    other = command(*run, "--set=pdrec.epochs=1", "--set=encoder.width=8", "--threads", 1)
    assert other.returncode == 0, other.stderr


def test_it_is_not_trained_again_and_another_choice_is_another_run(data, final):
    out, result = final
    again = pf.run(data, fast_config(final=True, pdrec__epochs=4), out=out, progress=False)
    ours, theirs = (r.model.encoder.item_embedding.weight for r in (again, result))
    assert torch.equal(ours, theirs)
    assert again.metrics["final"] == result.metrics["final"]
    with pytest.raises(pf.CheckpointError, match=r"config\.final \(True there, False here\)"):
        pf.run(data, fast_config(pdrec__epochs=4), out=out, progress=False)


def test_a_killed_final_training_goes_on_to_the_same_model(data, final, tmp_path):
    class Killed(pf.Callback):
        def on_epoch_end(self, name, history):
            if name == "final sasrec+fusion":
                raise KeyboardInterrupt

    out = tmp_path / "run"
    config = fast_config(final=True, pdrec__epochs=4)
    with pytest.raises(KeyboardInterrupt):
        pf.run(data, config, out=out, progress=False, callbacks=[Killed()])
    assert not (out / "metrics.json").exists()
    result = pf.run(data, config, out=out, progress=False)
    ours, theirs = (r.model.encoder.item_embedding.weight for r in (result, final[1]))
    assert torch.equal(ours, theirs)


def test_with_the_papers_modules_and_on_the_command_line(data, write_csv, tmp_path):
    settings = [f"--set={key}" for key in ("pdrec.epochs=2", "encoder.width=8", "n_draws=8")]
    settings += ["--set=diffusion.epochs=2", "--set=diffusion.hidden=8", "--set=top_m=5"]
    run = ("run", "--data", write_csv(data), "--out", tmp_path / "run", "--quiet", "--threads", 1)
    result = command(*run, "--final", "--modules=hbr,dpa,nns", *settings)
    assert result.returncode == 0, result.stderr
    assert "final: the saved models were trained on all records" in result.stdout
    preferences = pf.Preferences.load(tmp_path / "run" / "preferences")
    assert preferences.data == data.fingerprint()


def test_an_update_starts_from_selected_and_final_models(data, old_data, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    config = fast_config(final=True, modules=())
    pf.run(old_data, config, out=old, progress=False)
    result = pf.update(old, data, out=new, progress=False)
    assert result.selected is not None  # as the run did
    marker = json.loads((new / "run.json").read_text())
    prints = [pf.PDRec.load(old / where / "model").fingerprint() for where in ("selection", "")]
    assert marker["warm start"]["models"]["model"] == prints
    assert prints[0] != prints[1]
    assert pf.update(old, data, final=False, progress=False).selected is None


@pytest.mark.parametrize("epochs", [3, 40])
def test_what_killed_processes_left_of_a_checkpoint_is_removed(data, tmp_path, epochs):
    out = tmp_path / "run"
    # With many epochs a training ends early, and its checkpoint goes.
    settings = {"pdrec__epochs": epochs, "pdrec__patience": 1, "pdrec__eval_every": 1}
    config = fast_config(final=True, modules=(), **settings)
    expected = pf.run(data, config, out=out, progress=False).metrics
    selection = out / "selection"
    finished = sorted(file.name for file in selection.iterdir())
    assert ("model.checkpoint" in finished) == (epochs == 3)
    # Killed when a checkpoint had taken the place of the one before, or while it was removed.
    for name in {".model.checkpoint.old", "model.checkpoint"} - set(finished):
        shutil.copytree(selection / "model", selection / name)
        (selection / name / "weights.safetensors").unlink()
    again = pf.run(data, config, out=out, progress=False).metrics
    assert sorted(file.name for file in selection.iterdir()) == finished
    assert again["protocols"] == expected["protocols"]
