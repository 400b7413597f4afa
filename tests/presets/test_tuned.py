"""Presets that searches found, from files."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from typer.testing import CliRunner

import pdrec_fast as pf
from pdrec_fast import cli
from pdrec_fast.presets import tuned

SEARCH = {"command": "pdrec-fast tune", "trials": 3, "after": 0.25}
CONTENTS = {
    "base": "toy",
    "encoders": {
        "sasrec": {
            "plain": {"settings": {"pdrec.lr": 0.002, "encoder.dropout": 0.4}, "search": SEARCH},
            "guided": {
                "settings": {"pdrec.hbr_clip": 0.7, "omega_m": 0.9, "n_draws": 64},
                "search": SEARCH,
            },
        }
    },
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(CONTENTS))
    return path


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    (tmp_path / "toy-tuned.json").write_text(json.dumps(CONTENTS))
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    return "toy-tuned"


def test_a_run_without_modules_is_plain_and_others_are_guided(file):
    toy = pf.RunConfig.from_preset("toy", modules=(), seed=4)
    plain = pf.RunConfig.from_preset(str(file), modules=(), seed=4)
    assert plain == replace(
        toy, pdrec=replace(toy.pdrec, lr=0.002), encoder_options=pf.SASRecConfig(dropout=0.4)
    )
    for modules in (("hbr",), ("hbr", "dpa", "nns")):
        guided = pf.RunConfig.from_preset(str(file), modules=modules)
        toy = pf.RunConfig.from_preset("toy", modules=modules)
        assert guided == replace(
            toy, pdrec=replace(toy.pdrec, hbr_clip=0.7), omega_m=0.9, n_draws=64
        )


def test_a_packaged_file_is_a_preset_by_its_name(packaged):
    assert packaged in pf.presets.preset_names()
    config = pf.RunConfig.from_preset(packaged, modules=())
    assert config.pdrec.lr == 0.002


def test_the_diffusion_alone_has_the_bases_settings(packaged):
    found = pf.RunConfig.from_preset(packaged, encoder="diffusion")
    assert found == pf.RunConfig.from_preset("toy", encoder="diffusion")


def test_options_are_not_shared_between_runs(file):
    first = pf.RunConfig.from_preset(str(file), modules=())
    with pytest.raises(FrozenInstanceError):
        first.encoder_options.width = 8
    again = pf.RunConfig.from_preset(str(file), modules=())
    assert again.encoder_options == pf.SASRecConfig(dropout=0.4)


def test_an_encoder_nobody_searched_for_names_the_command(file):
    message = "tune --preset toy --encoder gru4rec --modules none --into"
    with pytest.raises(ValueError, match=message):
        pf.RunConfig.from_preset(str(file), encoder="gru4rec", modules=())


def test_an_unknown_preset_names_the_choices(tmp_path):
    for name in ("toys", str(tmp_path / "absent.json")):
        with pytest.raises(ValueError, match=r"unknown preset=.*'toy'.*tune --into"):
            pf.RunConfig.from_preset(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"base": "toys", "encoders": {}}', "base='toys' is none of"),
        ('{"base": "toy"}', "KeyError: 'encoders'"),
        ('{"base": "toy", "encoders": {"sasrec": {"plain": {}}}}', "KeyError: 'settings'"),
        (
            '{"base": "toy", "encoders": {"sasrec": {"plain": {"settings": 1, "search": {}}}}}',
            "sasrec, plain: settings and search must be objects",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, message):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"mine.json: not a file of tuned settings.*{message}"):
        pf.RunConfig.from_preset(str(path), modules=())


def test_a_wrong_setting_in_a_file_is_named(file):
    contents = json.loads(file.read_text())
    contents["encoders"]["sasrec"]["plain"]["settings"] = {"pdrec.lr": -1.0}
    file.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=r"mine.json: sasrec, plain: lr must be positive"):
        pf.RunConfig.from_preset(str(file), modules=())


def test_command_prints_what_was_found_beside_the_base(packaged):
    text = CliRunner().invoke(cli.app, ["presets", packaged]).stdout
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["setting", "toy", "sasrec", "plain", "sasrec", "guided"]
    assert ["pdrec.lr", "0.005", "0.002"] in rows
    assert ["omega_m", "0.5", "0.9"] in rows
    assert "sasrec plain: command pdrec-fast tune, trials 3, after 0.25" in text
