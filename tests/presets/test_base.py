"""The presets' values against the paper's text and the authors' repository, typed in again here."""

from dataclasses import asdict, fields, replace

import pytest
from typer.testing import CliRunner

import pdrec_fast as pf
from pdrec_fast import cli
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.presets import base
from pdrec_fast.training import MODULES

NAMES = ("toy", "game", "book", "music")
# "Parameter settings" of the paper.
PAPER = {
    #        ω_m   m   n   ω_d   ω_r  c_w  ω_f
    "toy": (0.5, 50, 5, 0.3, 0.1, 3.0, 2.0),
    "game": (0.5, 50, 5, 0.3, 0.1, 5.0, 4.0),
    "book": (0.8, 100, 1, 0.01, 0.3, 3.0, 4.0),
    "music": (0.8, 100, 1, 0.01, 0.1, 5.0, 2.0),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_parameters(name):
    preset = pf.PRESETS[name]
    c = preset.pdrec
    found = (preset.omega_m, preset.top_m, c.dpa_top_n, c.dpa_weight)
    assert (*found, c.hbr_rank_weight, c.hbr_clip, c.hbr_rescale) == PAPER[name]
    assert c.lr == 5e-3
    for encoder in ("gru4rec", "sasrec", "cl4srec"):  # the paper's
        assert ENCODERS[encoder](3).max_length == 200


@pytest.mark.parametrize(
    ("names", "temperature", "hidden", "embedding", "noise_max", "w_min"),
    [
        (("toy", "game"), 5.0, (1000,), 10, 0.005, 0.5),
        (("book", "music"), 10.0, (256,), 8, 0.01, 0.3),
    ],
)
def test_the_authors_parameters(names, temperature, hidden, embedding, noise_max, w_min):
    for preset in map(pf.PRESETS.__getitem__, names):
        d = preset.diffusion
        assert preset.pdrec.temperature == temperature
        assert (d.hidden, d.time_embedding, d.noise_max, d.w_min) == (
            hidden,
            embedding,
            noise_max,
            w_min,
        )
        assert (d.lr, d.weight_decay, d.lr_decay, d.batch_size) == (5e-5, 0.5, 0.99, 400)
        assert (d.steps, d.noise_scale, d.noise_min, d.w_max) == (10, 0.01, 0.0005, 1.0)
        assert (d.schedule, d.prediction, d.sampling_steps) == ("linear-var", "x0", 0)
        assert (preset.pdrec.batch_size, preset.pdrec.lr_decay) == (128, 0.99)


@pytest.mark.parametrize("name", [*NAMES, "default"])
def test_every_setting_has_one_value_and_one_source(name):
    keys = [setting.key for setting in base.settings_of(name)]
    assert len(keys) == len(set(keys))
    runs_own = {"diffusion.seed", "pdrec.seed"}
    wanted = {f"diffusion.{f.name}" for f in fields(pf.DiffusionConfig)}
    wanted |= {f"pdrec.{f.name}" for f in fields(pf.PDRecConfig)}
    assert set(keys) == wanted - runs_own | {"top_m", "omega_m", "n_draws"}


def test_sources_tell_the_papers_values_from_borrowed_ones():
    sources = {s.key: s.source for s in base.settings_of("game")}
    assert sources["pdrec.hbr_clip"] == "paper"
    assert sources["pdrec.temperature"] == "authors' README, as toy"
    assert sources["diffusion.hidden"] == "authors' code, as toy"
    assert sources["diffusion.steps"] == "authors' code"
    assert sources["pdrec.patience"] == "this package"


def test_the_readmes_commands_depart_from_the_presets():
    for name, encoders in base.README_COMMANDS.items():
        values = {s.key: s.value for s in base.settings_of(name)}
        for changed in encoders.values():
            for key, value in changed.items():
                assert values[key] != value
                assert type(values[key]) is type(value)


def test_sources_of_the_encoders_own_settings():
    defaults = asdict(pf.SASRecConfig())
    assert base.ENCODER_SOURCES.keys() == set(defaults) - {"impl"}
    values = {key: defaults[key] for key in base.ENCODER_SOURCES}
    sizes = {"max_length": 200, "width": 64, "blocks": 2, "heads": 1}
    assert values == sizes | {"dropout": 0.2, "positions": "xavier"}


def test_single_settings_of_a_preset_change():
    toy = pf.PRESETS["toy"]
    changed = pf.with_settings(toy, {"pdrec.lr": 0.1, "diffusion.hidden": [7], "top_m": 9})
    assert (changed.pdrec.lr, changed.diffusion.hidden, changed.top_m) == (0.1, (7,), 9)
    assert changed.omega_m == toy.omega_m
    for wrong in ({"pdrec.speed": 1}, {"speed": 1}, {"motor.speed": 1}):
        with pytest.raises(ValueError, match=r"speed: no such setting; known: "):
            pf.with_settings(toy, wrong)
    with pytest.warns(DeprecationWarning, match=r"write pdrec_fast\.with_settings"):
        assert toy.with_settings({"top_m": 9}).top_m == 9


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_the_default_trains_plain_and_guided_alike(encoder):
    plain, guided = (
        pf.RunConfig.from_preset("default", encoder=encoder, modules=modules)
        for modules in ((), MODULES)
    )
    assert plain.encoder_options == guided.encoder_options
    assert replace(plain.pdrec, modules=MODULES) == guided.pdrec


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_negatives_come_on_top(name):
    plain = pf.RunConfig.from_preset(name, modules=()).pdrec
    assert (plain.random_negatives, plain.safe_negatives) == (1, 1)


@pytest.mark.parametrize("name", [*NAMES, "default"])
def test_only_the_default_selects_by_the_whole_corpus_and_on_a_sample(name):
    preset = pf.PRESETS[name]
    wanted = ("full", 100_000) if name == "default" else ("paper", 0)
    for config in (preset.diffusion, preset.pdrec):
        assert (config.select_by, config.validation_users) == wanted


def test_the_default_was_called_none():
    with pytest.warns(DeprecationWarning, match="write 'default'"):
        assert pf.PRESETS["none"] is pf.PRESETS["default"]
    with pytest.warns(DeprecationWarning, match="write 'default'"):
        assert pf.RunConfig.from_preset("none") == pf.RunConfig.from_preset("default")
    assert "none" not in pf.PRESETS
    with pytest.raises(KeyError, match="toys"):
        pf.PRESETS["toys"]


def test_command_prints_settings_with_their_sources():
    text = CliRunner().invoke(cli.app, ["presets", "toy"]).stdout
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines()}
    assert lines["pdrec.lr"] == "0.005 paper"
    assert lines["omega_m"] == "0.5 paper (authors' README: sasrec 0.9)"
    assert lines["diffusion.hidden"] == "1000 authors' code"
    assert lines["encoder.max_length"] == "200 paper (sasrec)"
    assert set(NAMES) < set(CliRunner().invoke(cli.app, ["presets"]).stdout.split())
