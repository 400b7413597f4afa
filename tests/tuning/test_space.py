"""What is searched."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import pdrec_fast as pf
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.preferences import hbr_weights
from pdrec_fast.presets.base import README_COMMANDS
from pdrec_fast.settings import value_of, with_settings
from pdrec_fast.training import MODULES
from pdrec_fast.tuning import Choice, Range, search_space
from pdrec_fast.tuning.space import HBR_MEAN, point_of, settings_of

BACKBONE = {
    "pdrec.loss",
    "pdrec.lr",
    "pdrec.lr_decay",
    "pdrec.temperature",
    "pdrec.random_negatives",
    "pdrec.batch_size",
    "encoder.dropout",
}
OF_HBR = {"pdrec.hbr_clip", HBR_MEAN, "pdrec.hbr_rank_weight"}
OF_DPA = {"pdrec.dpa_weight", "pdrec.dpa_top_n", "top_m"}
OF_NNS = {"pdrec.safe_negatives", "omega_m"}


def holds(dimension, value):
    if isinstance(dimension, Range):
        return dimension.low <= value <= dimension.high
    return value in dimension.values


@pytest.mark.parametrize(
    ("modules", "wanted"),
    [
        ((), BACKBONE),
        (("hbr",), BACKBONE | OF_HBR),
        (("dpa",), BACKBONE | OF_DPA),
        (("hbr", "dpa", "nns"), BACKBONE | OF_HBR | OF_DPA | OF_NNS),
    ],
)
def test_modules_add_their_settings(modules, wanted):
    config = pf.RunConfig.from_preset("toy", modules=modules)
    assert search_space(config).keys() == wanted


@pytest.mark.parametrize(
    ("key", "value"),
    [("pdrec.warmup_steps", 50), ("pdrec.weight_decay", 0.02), ("pdrec.clip_norm", 2.0)],
)
def test_what_is_off_is_searched_where_a_trial_or_the_run_has_it_on(key, value):
    off = pf.RunConfig.from_preset("toy", modules=())
    on = with_settings(off, {key: value})
    assert search_space(off, tried=[key]).keys() == BACKBONE | {key}
    space = search_space(on)
    assert space.keys() == BACKBONE | {key}
    assert {0, value} <= set(space[key].values)
    assert search_space(on, fixed=[key]).keys() == BACKBONE


def test_the_decay_of_a_cosine_is_not_searched():
    config = pf.RunConfig.from_preset("toy", modules=())
    config = with_settings(config, {"pdrec.lr_schedule": "cosine"})
    assert search_space(config).keys() == BACKBONE - {"pdrec.lr_decay"}


def test_a_run_with_shared_negatives_searches_their_number():
    config = pf.RunConfig.from_preset("toy", modules=())
    config = with_settings(config, {"pdrec.loss": "shared_softmax"})
    space = search_space(config)
    assert space.keys() == BACKBONE | {"pdrec.shared_negatives"}
    assert set(space["pdrec.loss"].values) == {"bce", "softmax", "shared_softmax"}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("preset", pf.PRESETS)
def test_the_space_holds_the_presets_own_settings_and_the_readmes(preset, encoder):
    config = pf.RunConfig.from_preset(preset, encoder=encoder, modules=MODULES)
    space = search_space(config)
    readme = with_settings(config, README_COMMANDS.get(preset, {}).get(encoder, {}))
    for run in (config, readme):
        point = point_of(run, space)
        for key, dimension in space.items():
            assert holds(dimension, point[key]), key
        for key, value in settings_of(point, space).items():
            assert value == value_of(run, key), key


@pytest.mark.parametrize("fixed", ["pdrec.hbr_clip", "pdrec.hbr_rescale"])
def test_one_of_clip_and_rescale_alone_is_searched_as_it_is(fixed):
    space = search_space(pf.RunConfig.from_preset("toy", modules=("hbr",)), {fixed})
    other = {"pdrec.hbr_clip", "pdrec.hbr_rescale"} - {fixed}
    assert {key for key in space if "hbr" in key} == {*other, "pdrec.hbr_rank_weight"}


@pytest.mark.parametrize("mean", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("clip", [0.1, 0.3, 1.0, 5.0])
def test_hbr_weights_have_about_the_mean_that_is_searched(clip, mean):
    config = pf.RunConfig.from_preset("toy", modules=("hbr",))
    space = search_space(config)
    config = with_settings(
        config,
        settings_of(point_of(config, space) | {"pdrec.hbr_clip": clip, HBR_MEAN: mean}, space),
    )
    scores, items = np.random.default_rng(0).normal(size=400), np.arange(400)
    weights = hbr_weights(
        np.arange(0, 401, 8),
        scores,
        items,
        rank_weight=config.pdrec.hbr_rank_weight,
        clip=config.pdrec.hbr_clip,
        rescale=config.pdrec.hbr_rescale,
    )
    assert 0.7 * mean < weights.mean() <= mean
    if clip == 0.1:
        assert (weights == np.float32(mean)).mean() > 0.8  # nearly as without the module


def test_plain_and_guided_may_have_as_many_negatives():
    most = {}
    for modules in ((), ("dpa",), ("nns",), ("hbr", "dpa", "nns")):
        space = search_space(pf.RunConfig.from_preset("toy", modules=modules))
        found = [
            space[f"pdrec.{kind}_negatives"].values
            for kind in ("random", "safe")
            if f"pdrec.{kind}_negatives" in space
        ]
        most[modules] = sum(map(max, found))
    assert set(most.values()) == {64}


def test_the_space_is_widened_to_unusual_settings():
    config = with_settings(
        pf.RunConfig.from_preset("toy"),
        {"pdrec.lr": 0.5, "pdrec.batch_size": 77, "encoder.dropout": 0.7, "top_m": 60},
    )
    space = search_space(config)
    assert space["pdrec.lr"] == Range(5e-4, 0.5, log=True)
    assert space["pdrec.batch_size"] == Choice((64, 77, 128, 256, 512))
    assert space["encoder.dropout"] == Range(0.0, 0.7)
    assert space["top_m"] == Choice((10, 20, 50, 60, 100))


def test_what_is_fixed_is_not_searched():
    config = pf.RunConfig.from_preset("toy", modules=())
    assert search_space(config, {"pdrec.lr", "top_m"}).keys() == BACKBONE - {"pdrec.lr"}


def test_the_dot_product_has_no_temperature():
    config = pf.RunConfig.from_preset("toy", modules=())
    config = replace(config, pdrec=replace(config.pdrec, similarity="dot"))
    assert "pdrec.temperature" not in search_space(config)


@pytest.mark.parametrize(
    ("values", "fixed"),
    [
        ({}, ()),
        ({"top_m": 4, "pdrec.dpa_top_n": 1}, ()),
        ({"top_m": 4, "pdrec.dpa_top_n": 1}, ("top_m",)),
        ({"top_m": 40, "pdrec.dpa_top_n": 30}, ()),
        ({"top_m": 40, "pdrec.dpa_top_n": 30}, ("pdrec.dpa_top_n",)),
    ],
)
def test_every_m_goes_with_every_n(values, fixed):
    config = with_settings(pf.RunConfig.from_preset("default", modules=MODULES), values)
    space = search_space(config, fixed)
    searched = [key for key in ("pdrec.dpa_top_n", "top_m") if key in space]
    assert searched
    for chosen in product(*(space[key].values for key in searched)):
        with_settings(config, dict(zip(searched, chosen, strict=True)))  # refuses n > m


def test_values_of_a_config():
    config = pf.RunConfig.from_preset("toy", encoder="cl4srec")
    assert value_of(config, "pdrec.lr") == 0.005
    assert value_of(config, "omega_m") == 0.5
    assert value_of(config, "encoder.dropout") == 0.2
    changed = with_settings(config, {"pdrec.lr": 0.01, "encoder.dropout": 0.5, "omega_m": 0.9})
    assert changed.encoder_options == pf.CL4SRecConfig(dropout=0.5)
    assert (changed.pdrec.lr, changed.omega_m) == (0.01, 0.9)
    assert value_of(changed, "encoder.dropout") == 0.5
    assert config.encoder_options == pf.CL4SRecConfig()
