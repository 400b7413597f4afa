"""Every guide by its name: in training by hbr, dpa and nns, and in the fusion."""

import json
from dataclasses import replace

import numpy as np
import pytest

import pdrec_fast as pf
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.pipeline import GUIDE_NAMES, GUIDES
from tests.test_pipeline import command

FAST = {
    "diffusion.epochs": 2,
    "diffusion.hidden": 8,
    "pdrec.epochs": 1,
    "encoder.width": 8,
    "codigem.epochs": 2,
    "codigem.hidden": 8,
    "latent.epochs": 2,
    "latent.latent": 8,
    "item_knn.neighbors": 20,
    "linear.ridge": 10,
    "n_draws": 8,
    "top_m": 5,
}
KINDS = {
    "linear": pf.LinearDenoiser,
    "popularity": pf.Popularity,
    "item-knn": pf.ItemKNN,
    "codigem": pf.Codigem,
    "l-diffrec": pf.LatentDiffRec,
    "lt-diffrec": pf.LatentDiffRec,
}
OTHERS = pytest.mark.parametrize("guide", KINDS)


@pytest.fixture(scope="module")
def data():
    return pf.synthetic(n_users=60, n_items=180, seed=3)


def config_of(guide, modules, **changes):
    config = pf.RunConfig.from_preset("toy", modules=modules, guide=guide, seed=2)
    return replace(pf.with_settings(config, FAST), **changes)


def test_all_names_are_known():
    assert list(GUIDE_NAMES) == ["diffusion", "multinomial", *GUIDES]
    assert set(GUIDES) == {*ENCODERS, *KINDS}


@OTHERS
def test_it_guides_in_training(guide, data, tmp_path):
    config = config_of(guide, ("hbr", "dpa", "nns"))
    result = pf.run(data, config, out=tmp_path / "run", device="cpu", progress=False)
    assert type(result.guide) is KINDS[guide]
    assert result.diffusion is None
    wanted = pf.Preferences.infer(
        result.guide, result.split.train, top_m=5, omega_m=0.5, n_draws=8, seed=2, progress=False
    )
    assert result.preferences.fingerprint() == wanted.fingerprint()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["guide"] == pf.evaluate(result.guide, result.split, protocols=metrics["guide"])
    assert metrics["seconds"]["guide"] > 0
    assert (metrics["epochs"]["guide"] is not None) == GUIDES[guide].in_epochs
    # Started again, nothing is trained: the guide comes from disk.
    for part in ("preferences", "model"):
        (tmp_path / "run" / part).rename(tmp_path / part)
    again = pf.run(data, config, out=tmp_path / "run", device="cpu", progress=False)
    assert again.metrics["seconds"]["guide"] == metrics["seconds"]["guide"]
    assert again.metrics["protocols"] == metrics["protocols"]


@OTHERS
def test_it_is_fused(guide, data, tmp_path):
    config = config_of(guide, ("fusion",))
    result = pf.run(data, config, device="cpu", progress=False)
    # A guide that is the linear denoiser is there once.
    names = ["guide"] if guide == "linear" else ["guide", "linear"]
    assert list(result.model.fusion.guides) == names
    assert result.model.fusion.guides["guide"] is result.guide
    shares = {"guide": pf.Share(0.5)}
    result.model.fusion = pf.Fusion({"guide": result.guide}, shares)
    result.model.save(tmp_path / "model")
    loaded = pf.PDRec.load(tmp_path / "model", device="cpu")
    assert type(loaded.fusion.guides["guide"]) is KINDS[guide]
    assert loaded.evaluate(result.split) == result.model.evaluate(result.split)


@OTHERS
def test_final_models_and_updates_have_it(guide, data, tmp_path):
    """It is fitted on all records for as many epochs, and anew in an update."""
    config = config_of(guide, ("nns", "fusion"), final=True)
    first = pf.run(data, config, out=tmp_path / "run", device="cpu", progress=False)
    assert first.guide.trained_on == data.fingerprint()
    assert first.selected.guide.trained_on == first.split.train.fingerprint()
    if GUIDES[guide].in_epochs:
        selected = first.selected.guide.history
        assert first.guide.history.epochs == selected.best_epoch + 1
        assert first.metrics["final"]["epochs"]["guide"] == first.guide.history.epochs
    grown = grown_by_a_record_each(data)
    options = {"device": "cpu", "progress": False}
    second = pf.update(tmp_path / "run", grown, out=tmp_path / "new", **options)
    assert type(second.guide) is KINDS[guide]
    assert second.guide.trained_on == grown.fingerprint()
    third = pf.update(tmp_path / "new", grown_by_a_record_each(grown), **options)
    assert third.split.data.n_records == data.n_records + 2 * data.n_users


def test_a_run_starts_from_one_that_another_guide_guided(data, tmp_path):
    options = {"device": "cpu", "progress": False}
    pf.run(data, config_of("gru4rec", ("nns",)), out=tmp_path / "run", **options)
    grown, config = grown_by_a_record_each(data), config_of("codigem", ("nns",))
    result = pf.run(grown, config, warm_start=tmp_path / "run", **options)
    alone = pf.Codigem(result.guide.config, device="cpu").fit(result.split, progress=False)
    assert result.guide.history.losses == alone.history.losses


def grown_by_a_record_each(data):
    users = np.concatenate([data.record_users, np.arange(data.n_users)])
    new = np.random.default_rng(len(users)).integers(data.n_items, size=data.n_users)
    last = data.timestamps.max() + 1 + np.arange(data.n_users)
    items = np.concatenate([data.item_ids[data.items], data.item_ids[new]])
    times = np.concatenate([data.timestamps, last])
    return pf.Interactions.from_arrays(data.user_ids[users], items, times)


def test_settings_and_seeds_reach_the_guides(data):
    def made(guide, **changes):
        config = config_of(guide, ("nns",), **changes)
        return GUIDES[guide].new(config, "cpu", False)

    assert made("codigem").config.seed == made("l-diffrec").config.seed == 2
    assert made("item-knn").config.neighbors == 20
    assert made("l-diffrec").config.weighting == "none"
    assert made("lt-diffrec").config.weighting == "rank"
    by_time = pf.LatentConfig(weighting="interval")
    assert made("lt-diffrec", latent=by_time).config.weighting == "interval"
    assert made("gru4rec").config.seed == 3
    with pytest.raises(ValueError, match="guide='l-diffrec' weights all interactions alike"):
        made("l-diffrec", latent=by_time)


def test_multinomial_has_the_default_presets_settings(data):
    config = pf.RunConfig.from_preset("toy", guide="multinomial", seed=4)
    wanted = pf.RunConfig.from_preset("default", seed=4)
    assert config.diffusion == wanted.diffusion
    assert config.pdrec == pf.RunConfig.from_preset("toy", seed=4).pdrec
    tuned = pf.RunConfig.from_preset("toy-tuned", guide="multinomial", seed=4)
    assert tuned.diffusion == wanted.diffusion
    result = pf.run(data, config_of("multinomial", ("nns",)), device="cpu", progress=False)
    assert result.guide is None
    assert result.diffusion.config.likelihood == "multinomial"
    with pytest.raises(ValueError, match=r"needs diffusion\.likelihood='multinomial'"):
        pf.RunConfig(guide="multinomial")


def test_a_run_that_was_begun_before_there_were_these_settings_goes_on(data, tmp_path):
    new = ("codigem", "latent", "item_knn")
    old = {key: value for key, value in FAST.items() if key.split(".")[0] not in new}
    config = pf.RunConfig.from_preset("toy", modules=("nns",), seed=2)
    config = pf.with_settings(config, old)
    before = pf.run(data, config, out=tmp_path / "run", device="cpu", progress=False)
    marker = tmp_path / "run" / "run.json"
    written = json.loads(marker.read_text())
    for name in new:
        del written["config"][name]
    marker.write_text(json.dumps(written))
    again = pf.run(data, config, out=tmp_path / "run", device="cpu", progress=False)
    assert again.metrics["protocols"] == before.metrics["protocols"]


def test_on_the_command_line(data, tmp_path):
    path = tmp_path / "clicks.csv"
    rows = zip(data.record_users, data.items, data.timestamps, strict=True)
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    settings = [f"--set={key}={value}" for key, value in FAST.items()]
    options = ("--data", path, "--out", tmp_path / "run", "--threads", 1, "--quiet", *settings)
    result = command("run", *options, "--guide", "item-knn", "--modules", "nns")
    assert result.returncode == 0, result.stderr
    assert "item-knn (guide)" in result.stdout
    table = [line.split()[:2] for line in result.stdout.splitlines()]
    assert ["full", "item-knn"] in table
    wrong = command("run", *options, "--guide", "item-kn")
    assert wrong.returncode == 2
    assert "lt-diffrec" in wrong.stderr
