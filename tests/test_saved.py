"""What earlier versions wrote loads, and goes on: one of each kind lies in ``tests/saved``.

Numbers are compared with a tolerance, because another processor may round otherwise.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import pdrec_fast as pf
from pdrec_fast.cli import app

SAVED = Path(__file__).parent / "saved" / "v0.1.0"
# What made the runs, beside --out and the run's own options.
SETTINGS = [
    *("--data", str(SAVED / "data.csv"), "--preset", "default-0.1", "--threads", "1", "--quiet"),
    *("--set", "diffusion.hidden=8", "--set", "diffusion.epochs=2", "--set", "pdrec.epochs=3"),
    *("--set", "encoder.width=8", "--set", "top_m=5", "--set", "n_draws=16"),
]


@pytest.fixture
def saved(tmp_path):
    """A copy that may be written to."""
    return Path(shutil.copytree(SAVED, tmp_path / "saved"))


def run(*arguments):
    result = CliRunner().invoke(app, ["run", *SETTINGS, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def figures(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics["protocols"]["full"]["test"]


@pytest.mark.parametrize("name", ["run", "run-gru4rec"])
def test_a_model_loads_and_recommends_what_its_run_measured(name):
    model = pf.PDRec.load(SAVED / name / "model", device="cpu")
    found = model.evaluate(pf.leave_one_out(model.data), protocols=("full",))["full"]["test"]
    assert found == pytest.approx(figures(SAVED / name), abs=1e-6)
    items, logits = model.recommend(model.data.user_ids[:3], 5)
    assert items.shape == (3, 5)
    assert np.isfinite(logits).all()


def test_a_diffusion_model_and_its_preferences_load():
    model = pf.DiffRec.load(SAVED / "run" / "diffusion", device="cpu")
    train = pf.leave_one_out(pf.PDRec.load(SAVED / "run" / "model", device="cpu").data).train
    assert model.trained_on == train.fingerprint()
    kept = pf.Preferences.load(SAVED / "run" / "preferences")
    anew = pf.Preferences.infer(model, train, top_m=5, n_draws=16, progress=False)
    np.testing.assert_allclose(kept.observed_scores, anew.observed_scores, rtol=1e-4, atol=1e-6)
    assert (kept.top_items == anew.top_items).mean() > 0.95


def test_the_diffusion_model_has_the_fingerprint_that_runs_guided_by_it_wrote_down():
    model = pf.DiffRec.load(SAVED / "run" / "diffusion", device="cpu")
    assert model.fingerprint() == "31877c79cfa85b9a"


def test_a_finished_run_is_taken_as_it_is(saved):
    before = (saved / "run" / "model" / "weights.safetensors").read_bytes()
    run("--out", str(saved / "run"))
    assert (saved / "run" / "model" / "weights.safetensors").read_bytes() == before
    assert figures(saved / "run") == pytest.approx(figures(SAVED / "run"), abs=1e-6)


def test_an_interrupted_run_goes_on_to_the_same_model(saved):
    run("--out", str(saved / "run-interrupted"))
    kept, new = (
        pf.PDRec.load(saved / name / "model", device="cpu") for name in ("run", "run-interrupted")
    )
    assert new.history.losses == pytest.approx(kept.history.losses, rel=1e-4)
    for name, tensor in kept.encoder.state_dict().items():
        torch.testing.assert_close(new.encoder.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_search_goes_on(saved):
    settings = [text if text != "pdrec.epochs=3" else "pdrec.epochs=2" for text in SETTINGS[:-4]]
    command = ["tune", *settings, "--out", str(saved / "search"), "--trials", "3"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    kept, new = (folder / "search" / "trials.csv" for folder in (SAVED, saved))
    assert new.read_text().startswith(kept.read_text().rstrip())
    assert len(new.read_text().splitlines()) == 4


def test_tuned_settings_are_read():
    config = pf.RunConfig.from_preset(str(SAVED / "tuned.json"))
    assert config.pdrec.loss == "softmax"
    assert config.encoder_options.width == 8
