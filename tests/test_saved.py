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

SAVED = Path(__file__).parent / "saved"
# What made the runs, beside --out and the run's own options.
SETTINGS = [
    *("--threads", "1", "--quiet", "--set", "diffusion.hidden=8", "--set", "diffusion.epochs=2"),
    *("--set", "encoder.width=8", "--set", "top_m=5", "--set", "n_draws=16"),
]
OF_VERSION = {
    "v0.1.0": ["--preset", "default-0.1"],
    "v0.2.0": ["--modules", "hbr,dpa,nns,fusion"],
}
VERSIONS = tuple(OF_VERSION)


@pytest.fixture
def saved(tmp_path, version):
    """A copy that may be written to."""
    return Path(shutil.copytree(SAVED / version, tmp_path / "saved"))


def run(version, out):
    data = ["--data", str(SAVED / version / "data.csv"), "--set", "pdrec.epochs=3"]
    command = ["run", *data, *OF_VERSION[version], *SETTINGS, "--out", str(out)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def figures(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics["protocols"]["full"]["test"]


RUNS = [("v0.1.0", "run"), ("v0.1.0", "run-gru4rec"), ("v0.2.0", "run"), ("v0.2.0", "run-hstu")]


@pytest.mark.parametrize(("version", "name"), RUNS)
def test_a_model_loads_and_recommends_what_its_run_measured(version, name):
    folder = SAVED / version / name
    model = pf.PDRec.load(folder / "model", device="cpu")
    found = model.evaluate(pf.leave_one_out(model.data), protocols=("full",))["full"]["test"]
    assert found == pytest.approx(figures(folder), abs=1e-6)
    items, logits = model.recommend(model.data.user_ids[:3], 5)
    assert items.shape == (3, 5)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_diffusion_model_and_its_preferences_load(version):
    folder = SAVED / version / "run"
    model = pf.DiffRec.load(folder / "diffusion", device="cpu")
    train = pf.leave_one_out(pf.PDRec.load(folder / "model", device="cpu").data).train
    assert model.trained_on == train.fingerprint()
    kept = pf.Preferences.load(folder / "preferences")
    anew = pf.Preferences.infer(model, train, top_m=5, n_draws=16, progress=False)
    np.testing.assert_allclose(kept.observed_scores, anew.observed_scores, rtol=1e-4, atol=1e-6)
    assert (kept.top_items == anew.top_items).mean() > 0.95


# Runs that are guided by a model have written it down.
@pytest.mark.parametrize(
    ("version", "digest"), [("v0.1.0", "31877c79cfa85b9a"), ("v0.2.0", "85af24876ad0166f")]
)
def test_the_diffusion_model_has_the_fingerprint_that_it_had(version, digest):
    model = pf.DiffRec.load(SAVED / version / "run" / "diffusion", device="cpu")
    assert model.fingerprint() == digest


OTHERS = {
    "multinomial": pf.DiffRec,
    "codigem": pf.Codigem,
    "l-diffrec": pf.LatentDiffRec,
    "linear": pf.LinearDenoiser,
    "item-knn": pf.ItemKNN,
    "popularity": pf.Popularity,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_load_and_rank_as_they_did(name):
    folder = SAVED / "v0.2.0"
    model = OTHERS[name].load(folder / "models" / name)
    split = pf.leave_one_out(pf.Interactions.from_file(folder / "data.csv"))
    found = pf.evaluate(model, split, protocols=("full",))["full"]["test"]
    assert found == pytest.approx(
        json.loads((folder / "models" / "figures.json").read_text())[name]
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_a_finished_run_is_taken_as_it_is(saved, version):
    before = (saved / "run" / "model" / "weights.safetensors").read_bytes()
    run(version, saved / "run")
    assert (saved / "run" / "model" / "weights.safetensors").read_bytes() == before
    assert figures(saved / "run") == pytest.approx(figures(SAVED / version / "run"), abs=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_interrupted_run_goes_on_to_the_same_model(saved, version):
    run(version, saved / "run-interrupted")
    kept, new = (
        pf.PDRec.load(saved / name / "model", device="cpu") for name in ("run", "run-interrupted")
    )
    assert new.history.losses == pytest.approx(kept.history.losses, rel=1e-4)
    for name, tensor in kept.encoder.state_dict().items():
        torch.testing.assert_close(new.encoder.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_search_goes_on(saved, version):
    modules = [text.removesuffix(",fusion") for text in OF_VERSION[version]]
    command = ["tune", "--data", str(SAVED / version / "data.csv"), *modules, *SETTINGS[:-4]]
    command += ["--set", "pdrec.epochs=2", "--out", str(saved / "search"), "--trials", "3"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    kept, new = (folder / "search" / "trials.csv" for folder in (SAVED / version, saved))
    assert new.read_text().startswith(kept.read_text().rstrip())
    assert len(new.read_text().splitlines()) == 4


@pytest.mark.parametrize(("version", "loss"), [("v0.1.0", "softmax"), ("v0.2.0", "shared_softmax")])
def test_tuned_settings_are_read(version, loss):
    config = pf.RunConfig.from_preset(str(SAVED / version / "tuned.json"))
    assert config.pdrec.loss == loss
    assert config.encoder_options.width == 8
