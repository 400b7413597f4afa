"""Settings of a run by their keys."""

import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from typer.testing import CliRunner

import pdrec_fast as pf
from pdrec_fast.cli import app
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.encoders.registry import encoder_config
from pdrec_fast.pipeline import with_current_defaults
from pdrec_fast.settings import parse_settings, value_of, with_settings, written


def changed(**settings):
    """``changed(pdrec__lr=...)``: a run with other settings."""
    found = {key.replace("__", "."): value for key, value in settings.items()}
    return with_settings(pf.RunConfig(), found)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("false", False), ("False", False)]
)
def test_switches_are_read_as_json_and_as_presets_prints_them(text, value):
    assert changed(pdrec__skip_cold_items=text).pdrec.skip_cold_items is value


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("pdrec.lr", "0.5", 0.5),
        ("pdrec.lr", 1, 1.0),
        ("pdrec.lr", "1", 1.0),
        ("pdrec.loss", "softmax", "softmax"),
        ("pdrec.loss", '"softmax"', "softmax"),
        ("pdrec.modules", "nns", ("nns",)),
        ("diffusion.hidden", 16, (16,)),
        ("diffusion.hidden", "[16, 8]", (16, 8)),
        ("diffusion.hidden", [16, 8], (16, 8)),
        ("encoder.width", "32", 32),
        ("top_m", "7", 7),
    ],
)
def test_values_and_their_text(key, value, wanted):
    config = with_settings(pf.RunConfig(), {key: value})
    found = value_of(config, key)
    assert (found, type(found)) == (wanted, type(wanted))
    assert with_settings(pf.RunConfig(), parse_settings(written({key: found}))) == config


def test_settings_change_together():
    config = changed(top_m=4, pdrec__dpa_top_n=2)  # the default of the second is 5
    assert (config.top_m, config.pdrec.dpa_top_n) == (4, 2)
    assert changed(pdrec__dpa_top_n=60, top_m=60).top_m == 60


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pdrec.speed", 9, "pdrec.speed: no such setting; known: modules, similarity, "),
        ("encoder.widht", 8, "encoder.widht: no such setting; known: width, blocks, "),
        (
            "motor.lr",
            9,
            r"motor.lr: no such setting; known: diffusion.NAME, .*, latent.NAME, top",
        ),
        ("split", 9, "split: no such setting; known: .*, top_m, omega_m, n_draws, fusion_guides"),
        ("encoder", "gru4rec", "encoder: no such setting"),
        ("pdrec.lr", "fast", "pdrec.lr=fast: takes a value of type float"),
        ("pdrec.epochs", 1.5, "pdrec.epochs=1.5: takes a value of type int"),
        ("pdrec.epochs", True, "pdrec.epochs=True: takes a value of type int"),
        ("pdrec.l\nr", 1, r"pdrec.l\\nr: no such setting"),
        ("pdrec.lr", "[" * 3000, r"pdrec.lr=\[+: takes a value of type float"),
        ("encoder.dropout", 1.0, r"dropout must lie in \[0, 1\)"),
        ("encoder.heads", 3, "width=64 must be a multiple of heads=3"),
    ],
)
def test_wrong_settings_are_told_with_what_is_known(key, value, message):
    with pytest.raises(ValueError, match=message):
        with_settings(pf.RunConfig(), {key: value})


def test_options_of_an_encoder_may_be_a_mapping():
    config = pf.RunConfig(encoder="gru4rec", encoder_options={"width": 8, "dropout": 0})
    assert config.encoder_options == pf.GRU4RecConfig(width=8, dropout=0.0)
    model = pf.PDRec("gru4rec", encoder_options={"width": 8})
    assert model.encoder_options == pf.GRU4RecConfig(width=8)
    for make in (pf.RunConfig, pf.PDRec):
        with pytest.raises(ValueError, match=r"encoder\.hidden: no such setting; known: width"):
            make(encoder="sasrec", encoder_options={"hidden": 8})


def test_another_encoder_takes_over_the_options_that_were_set():
    config = pf.RunConfig(encoder_options=pf.SASRecConfig(width=8))
    assert replace(config, encoder="gru4rec").encoder_options == pf.GRU4RecConfig(width=8)
    assert replace(config, encoder="diffusion").encoder_options is None
    with pytest.raises(ValueError, match=r"encoder\.heads: no such setting"):
        pf.RunConfig(encoder="gru4rec", encoder_options=pf.SASRecConfig(heads=2))


def test_a_run_without_an_encoder_takes_settings_of_one():
    config = with_settings(pf.RunConfig(encoder="diffusion"), {"encoder.width": 8, "top_m": 7})
    assert (config.encoder_options, config.top_m) == (None, 7)


def test_the_help_names_every_setting():
    text = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "20000"}).output
    for name in ("evaluation_seed", "fix_first_beta", "skip_cold_items", "layers", "reorder"):
        assert name in text


def test_an_older_run_of_the_diffusion_alone_may_name_options_of_an_encoder(tmp_path):
    now = pf.RunConfig(encoder="diffusion").describe()
    older = now | {"encoder_options": {"width": 8}}
    del older["format"]
    assert with_current_defaults({"config": older, "data": "x"}, tmp_path) == {
        "config": now,
        "data": "x",
    }


CONFIGS = [
    *(kind() for kind in (pf.PDRecConfig, pf.DiffusionConfig, pf.LinearConfig, pf.ItemKNNConfig)),
    *(kind() for kind in (pf.CodigemConfig, pf.LatentConfig, pf.RunConfig)),
    *(encoder_config(name, None) for name in ENCODERS),
]
ODD = {
    "int": (True, "3", 2.5, 3.0, None),
    "float": (True, "0.5", None),
    "bool": ("no", 0, 2, None),
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_setting_of_another_kind_is_refused_by_its_name(config):
    """A rate of ``"no"`` is no TypeError about ``<``, and a switch of ``"no"`` is not on."""
    for setting in fields(config):
        for value in ODD.get(setting.type, ()):
            with pytest.raises(ValueError, match=rf"^{setting.name} must be .*, got {value!r}$"):
                replace(config, **{setting.name: value})


def test_numbers_of_numpy_are_those_of_python():
    config = pf.PDRecConfig(
        epochs=np.int64(3), seed=np.uint32(7), lr=np.float32(0.25), windows=np.True_
    )
    assert config == pf.PDRecConfig(epochs=3, seed=7, lr=0.25, windows=True)
    assert json.loads(json.dumps(asdict(config)))["seed"] == 7
