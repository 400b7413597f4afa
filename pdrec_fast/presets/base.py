"""The paper's settings per data set, and one for data of your own; every value with its source.

What the paper does not say (TI-DiffRec, batch sizes, decay of the rates, temperature) comes from
its authors' repository, which has Toy and Book; Game and Music take the values of the data set of
the same origin (Amazon: Toy, Douban: Book). Of TI-DiffRec there the values count that PDRec.py
names as those of the trained models; the defaults of TI_DiffRec.py are others.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pdrec_fast.diffusion import DiffusionConfig
from pdrec_fast.settings import with_settings
from pdrec_fast.training import MODULES, PDRecConfig

PAPER = "paper"
README = "authors' README"
CODE = "authors' code"
OURS = "this package"

DEFAULT = "default"  # for data of one's own
DEFAULT_0_1 = "default-0.1"  # what that was in version 0.1.0, so that its runs can go on
FORMER_NAMES = {"none": DEFAULT}
DEFAULT_FUSION_GUIDES = ("guide", "linear")  # beside these popularity got no share
_FAMILY = {"toy": "amazon", "game": "amazon", "book": "douban", "music": "douban"}
_AS = {"game": "toy", "music": "book"}  # whose values stand in where the authors have none

# Source -> data sets -> settings. Nothing is in two sources.
_TABLE: dict[str, dict[str, dict[str, Any]]] = {
    PAPER: {
        "all": {"diffusion.weighting": "interval", "pdrec.loss": "bce", "pdrec.lr": 5e-3},
        "amazon": {"omega_m": 0.5, "top_m": 50, "pdrec.dpa_top_n": 5, "pdrec.dpa_weight": 0.3},
        "douban": {"omega_m": 0.8, "top_m": 100, "pdrec.dpa_top_n": 1, "pdrec.dpa_weight": 0.01},
        "toy": {"pdrec.hbr_rank_weight": 0.1, "pdrec.hbr_clip": 3.0, "pdrec.hbr_rescale": 2.0},
        "game": {"pdrec.hbr_rank_weight": 0.1, "pdrec.hbr_clip": 5.0, "pdrec.hbr_rescale": 4.0},
        "book": {"pdrec.hbr_rank_weight": 0.3, "pdrec.hbr_clip": 3.0, "pdrec.hbr_rescale": 4.0},
        "music": {"pdrec.hbr_rank_weight": 0.1, "pdrec.hbr_clip": 5.0, "pdrec.hbr_rescale": 2.0},
    },
    README: {"toy": {"pdrec.temperature": 5.0}, "book": {"pdrec.temperature": 10.0}},
    CODE: {
        "all": {
            "diffusion.w_max": 1.0,
            "diffusion.normalize_input": False,
            "diffusion.dropout": 0.5,
            "diffusion.schedule": "linear-var",
            "diffusion.steps": 10,
            "diffusion.noise_scale": 0.01,
            "diffusion.noise_min": 0.0005,
            "diffusion.fix_first_beta": True,
            "diffusion.prediction": "x0",
            "diffusion.snr_weighting": True,
            "diffusion.importance_sampling": True,
            "diffusion.sampling_steps": 0,
            "diffusion.sampling_noise": False,
            "diffusion.lr": 5e-5,
            "diffusion.weight_decay": 0.5,
            "diffusion.lr_decay": 0.99,
            "diffusion.batch_size": 400,
            "diffusion.epochs": 1000,
            "diffusion.patience": 10,
            "diffusion.eval_every": 1,
            "pdrec.similarity": "cosine",
            "pdrec.random_negatives": 1,
            "pdrec.safe_negatives": 1,
            "pdrec.lr_decay": 0.99,
            "pdrec.batch_size": 128,
        },
        "toy": {
            "diffusion.hidden": (1000,),
            "diffusion.time_embedding": 10,
            "diffusion.noise_max": 0.005,
            "diffusion.w_min": 0.5,
        },
        "book": {
            "diffusion.hidden": (256,),
            "diffusion.time_embedding": 8,
            "diffusion.noise_max": 0.01,
            "diffusion.w_min": 0.3,
        },
    },
    # The authors train for up to 1000 epochs, test from epoch 51 on and stop after 100 at the
    # earliest, ten epochs without a gain; we look at every epoch, on validation.
    OURS: {
        "all": {
            "diffusion.select_by": "paper",
            "diffusion.validation_users": 0,
            "diffusion.precision": "fp32",
            "diffusion.skip_cold_items": False,
            "diffusion.decay": 0.8,
            "diffusion.half_life": 2_592_000.0,
            "diffusion.likelihood": "gaussian",
            "diffusion.target": "all",
            "diffusion.earlier_weight": 0.5,
            "diffusion.cut_every": 8,
            "diffusion.noise": "gaussian",
            "pdrec.modules": MODULES,
            "pdrec.dpa_start": 0,
            "pdrec.fusion_select_by": "both",
            "pdrec.skip_cold_items": False,
            "pdrec.learn_temperature": False,
            "pdrec.gbce_calibration": 0.75,
            "pdrec.shared_negatives": 1024,
            "pdrec.negative_sampling": "uniform",
            "pdrec.table_optimizer": "dense",
            "pdrec.min_steps": 0,
            "pdrec.rank_cold_items": True,
            "pdrec.windows": False,
            "pdrec.lr_schedule": "exponential",
            "pdrec.warmup_steps": 0,
            "pdrec.weight_decay": 0.0,
            "pdrec.clip_norm": 0.0,
            "pdrec.epochs": 300,
            "pdrec.patience": 20,
            "pdrec.min_epochs": 0,
            "pdrec.eval_every": 1,
            "pdrec.select_by": "paper",
            "pdrec.validation_users": 0,
            "n_draws": 1024,
        }
    },
}
# Data the paper has not seen: the backbone, with modules or without. Everything that says how it
# learns is here, so that plain and guided differ in the modules alone. Chosen on the validation of
# Toy, Book, Beauty and ML-1M, see docs/backbones.md.
_OWN_BACKBONE: dict[str, Any] = {
    "pdrec.similarity": "cosine",
    "pdrec.temperature": 10.0,
    "pdrec.loss": "shared_softmax",
    "pdrec.shared_negatives": 1024,
    "pdrec.negative_sampling": "uniform",
    "pdrec.skip_cold_items": True,
    "pdrec.rank_cold_items": False,
    "pdrec.windows": True,
    "pdrec.lr": 2e-3,
    "pdrec.lr_schedule": "exponential",
    "pdrec.lr_decay": 0.95,
    "pdrec.warmup_steps": 100,
    "pdrec.weight_decay": 0.0,
    "pdrec.clip_norm": 0.0,
    "pdrec.table_optimizer": "dense",
    "pdrec.batch_size": 128,
    "pdrec.min_steps": 20,
    "pdrec.epochs": 100,
    "pdrec.patience": 5,
    "pdrec.min_epochs": 0,
    "pdrec.eval_every": 1,
    "pdrec.select_by": "full",
    "pdrec.validation_users": 100_000,
}
# A diffusion that masks, with a multinomial likelihood of what lies around a cut of the history: it
# learns in tens of epochs what TI-DiffRec does not, see docs/fusion.md. The noise's bounds and the
# schedule are of Gaussian noise alone.
_OWN_DIFFUSION: dict[str, Any] = {
    "diffusion.weighting": "decay",
    "diffusion.w_min": 0.0,
    "diffusion.decay": 0.8,
    "diffusion.likelihood": "multinomial",
    "diffusion.target": "later",
    "diffusion.earlier_weight": 0.5,
    "diffusion.cut_every": 16,
    "diffusion.noise": "mask",
    "diffusion.dropout": 0.9,
    "diffusion.snr_weighting": False,
    "diffusion.importance_sampling": False,
    "diffusion.hidden": (256,),
    "diffusion.lr": 3e-3,
    "diffusion.lr_decay": 0.97,
    "diffusion.weight_decay": 0.0,
    "diffusion.batch_size": 256,
    "diffusion.epochs": 200,
    "diffusion.patience": 12,
    "diffusion.eval_every": 2,
    "diffusion.skip_cold_items": True,
    "diffusion.select_by": "full",
    "diffusion.validation_users": 100_000,
    "diffusion.precision": "auto",
}
# What --modules hbr,dpa,nns takes: doses that did no harm to a healthy backbone on validation, when
# TI-DiffRec was the guide. The paper's doses did: HBR takes nearly all weight from every user's
# least expected behaviour, and DPA's many soft positives draw the last state to popular items. What
# a cold item's embedding does as an input is no better than noise.
_OWN_MODULES: dict[str, Any] = {
    "pdrec.hbr_clip": 0.3,
    "pdrec.hbr_rescale": 3.33,
    "pdrec.dpa_top_n": 1,
    "pdrec.dpa_weight": 0.05,
    "top_m": 10,
}
_OWN_FUSION: dict[str, Any] = {"pdrec.modules": ("fusion",)}  # what lifts a healthy backbone
_OWN_DATA = {
    DEFAULT: _OWN_BACKBONE | _OWN_DIFFUSION | _OWN_MODULES | _OWN_FUSION,
    DEFAULT_0_1: _OWN_MODULES
    | {
        "diffusion.hidden": (200,),
        "diffusion.lr": 1e-3,
        "diffusion.weight_decay": 0.0,
        "diffusion.epochs": 200,
        "pdrec.skip_cold_items": True,
        "pdrec.epochs": 200,
        "pdrec.patience": 10,
    },
}
# Where the commands in the authors' README set something else than the paper: by encoder.
README_COMMANDS: dict[str, dict[str, dict[str, Any]]] = {
    "toy": {
        "sasrec": {
            "pdrec.hbr_clip": 1.0,
            "pdrec.hbr_rescale": 4.0,
            "pdrec.dpa_weight": 0.05,
            "omega_m": 0.9,
        }
    },
    "book": {
        "gru4rec": {"pdrec.lr": 0.01},
        "sasrec": {"pdrec.lr": 1e-3, "pdrec.hbr_rank_weight": 0.5},
    },
}
# What every encoder takes unless it is told otherwise.
ENCODER_SOURCES = {"max_length": PAPER} | dict.fromkeys(
    ("width", "blocks", "heads", "dropout", "positions"), CODE
)


@dataclass(frozen=True)
class Preset:
    """Settings of a whole run, with any encoder.

    Attributes:
        diffusion, pdrec: of the two models.
        top_m: m of DPA.
        omega_m: ω_m of NNS.
        n_draws: see ``Preferences.infer``.
    """

    diffusion: DiffusionConfig
    pdrec: PDRecConfig
    top_m: int
    omega_m: float
    n_draws: int = 1024

    def with_settings(self, settings: Mapping[str, Any]) -> Preset:
        """``pdrec_fast.with_settings(preset, settings)``, which takes its place."""
        warnings.warn(
            "Preset.with_settings: write pdrec_fast.with_settings(preset, settings)",
            DeprecationWarning,
            stacklevel=2,
        )
        return with_settings(self, settings)


@dataclass(frozen=True)
class Setting:
    """One setting of a preset, as ``--set`` names it, and where its value comes from."""

    key: str
    value: Any
    source: str


def settings_of(name: str) -> list[Setting]:
    """Every setting of the preset ``name`` of ``PRESETS``; seeds are a run's own."""
    if name in _OWN_DATA:
        taken = {s.key: replace(s, source=_borrowed(s.source, "toy")) for s in settings_of("toy")}
        own = {key: Setting(key, value, OURS) for key, value in _OWN_DATA[name].items()}
        return sorted((taken | own).values(), key=_order)
    found = []
    for source, groups in _TABLE.items():
        borrowed = source in (README, CODE) and name in _AS
        for group in ("all", _FAMILY[name], _AS[name] if borrowed else name):
            label = _borrowed(source, group) if borrowed and group != "all" else source
            values = groups.get(group, {})
            found += [Setting(key, value, label) for key, value in values.items()]
    return sorted(found, key=_order)


def _borrowed(source: str, name: str) -> str:
    return source if source == OURS else f"{source}, as {name}"


def _order(setting: Setting) -> tuple[bool, str]:
    """Diffusion and PDRec's own first, then what lies between them."""
    return "." not in setting.key, setting.key.rpartition(".")[0]


def _preset(name: str) -> Preset:
    empty = Preset(DiffusionConfig(), PDRecConfig(), top_m=1, omega_m=0.0)
    return with_settings(empty, {setting.key: setting.value for setting in settings_of(name)})


def current_name(name: str) -> str:
    """The name that a preset has today; a former one gives a DeprecationWarning."""
    if name not in FORMER_NAMES:
        return name
    now = FORMER_NAMES[name]
    warnings.warn(
        f"the preset {name!r} is now called {now!r}: write {now!r}",
        DeprecationWarning,
        stacklevel=3,
    )
    return now


class _Presets(dict[str, Preset]):
    """Presets by name; former names are looked up, but not listed."""

    def __missing__(self, name: str) -> Preset:
        if name not in FORMER_NAMES:
            raise KeyError(name)
        return self[current_name(name)]


PRESETS: dict[str, Preset] = _Presets({name: _preset(name) for name in (*_FAMILY, *_OWN_DATA)})
