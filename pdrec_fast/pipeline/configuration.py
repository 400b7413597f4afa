"""What defines a run, besides its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pdrec_fast.baselines import ItemKNNConfig
from pdrec_fast.checks import check_kinds
from pdrec_fast.data import Interactions, Split, global_time_split, leave_one_out
from pdrec_fast.data.times import as_moment
from pdrec_fast.diffusion import CodigemConfig, DiffusionConfig, LatentConfig, LinearConfig
from pdrec_fast.encoders import ENCODERS, EncoderOptions, encoder_config
from pdrec_fast.pipeline.guides import DIFFUSION, GUIDE_NAMES, L_DIFFREC, LT_DIFFREC, MULTINOMIAL
from pdrec_fast.presets import (
    DEFAULT,
    DEFAULT_FUSION_GUIDES,
    PRESETS,
    current_name,
    kind_of,
    modules_of,
    preset_of,
)
from pdrec_fast.settings import with_settings
from pdrec_fast.settings_format import FORMAT
from pdrec_fast.training import Module, PDRecConfig

FUSION_GUIDES = ("guide", "linear", "popularity")


@dataclass(frozen=True)
class SplitSpec:
    """How the data are split: leave-one-out, or by global time when both limits are given.

    Attributes:
        valid_from, test_from: see ``global_time_split``; dates are kept as ISO 8601 text.
    """

    valid_from: Any = None
    test_from: Any = None

    def __post_init__(self) -> None:
        if (self.valid_from is None) != (self.test_from is None):
            raise ValueError("a split by time needs both valid_from and test_from")
        for name in ("valid_from", "test_from"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, as_moment(given, name).plain)

    def apply(self, data: Interactions) -> Split:
        if self.valid_from is None or self.test_from is None:
            return leave_one_out(data)
        return global_time_split(data, self.valid_from, self.test_from)


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run, besides the data.

    ``pdrec_fast.with_settings`` changes single settings.

    Attributes:
        diffusion, pdrec: settings of the two models.
        encoder: name of a built-in encoder, or ``"diffusion"`` for the diffusion model alone.
        encoder_options: of the encoder: its configuration, such as ``SASRecConfig(width=32)``, or
            single options, ``{"width": 32}``. It is kept as the encoder's configuration; None
            where there is no encoder.
        guide: scorer that guides the encoder, by a name of ``GUIDE_NAMES``: ``"diffusion"``;
            ``"multinomial"``, the diffusion model with a multinomial likelihood, which
            ``from_preset`` gives the default preset's settings; the name of an encoder that is
            trained without modules in its place (the paper's "without TI-DiffRec": a second
            SASRec), with the settings of ``pdrec``, the seed after ``pdrec.seed`` and, where it is
            of the encoder's own kind, ``encoder_options``; ``"linear"``, ``"popularity"``,
            ``"item-knn"``, ``"codigem"``, ``"l-diffrec"`` or ``"lt-diffrec"``.
        top_m, omega_m, n_draws: see ``Preferences.infer``.
        linear: settings of the linear denoiser, where it guides or is among ``fusion_guides``.
        item_knn, codigem, latent: settings of the guides ``"item-knn"`` (and of that row of the
            results), ``"codigem"``, and ``"l-diffrec"`` and ``"lt-diffrec"``; of the latter
            ``latent.weighting`` is ``"rank"`` unless it is set.
        fusion_guides: what the module ``"fusion"`` adds to the encoder's logits, each by a share
            chosen on validation: ``"guide"`` is the ``guide`` itself, ``"linear"`` a
            ``LinearDenoiser``, ``"popularity"`` the number of training records.
        split: how the data are split.
        evaluation_seed: of the sampled negatives of the ``paper`` protocol, in the final test
            (selection always looks at those of seed 0).
        final: when epochs and shares are chosen and the models are tested, train all of them again
            on every record, the validation and test targets too, for as many epochs; these are the
            models that a run saves and that recommend. It takes as long again.
    """

    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    pdrec: PDRecConfig = field(default_factory=PDRecConfig)
    encoder: str = "sasrec"
    encoder_options: EncoderOptions | None = None
    guide: str = DIFFUSION
    top_m: int = 50
    omega_m: float = 0.5
    n_draws: int = 1024
    linear: LinearConfig = field(default_factory=LinearConfig)
    item_knn: ItemKNNConfig = field(default_factory=ItemKNNConfig)
    codigem: CodigemConfig = field(default_factory=CodigemConfig)
    latent: LatentConfig = field(default_factory=LatentConfig)
    fusion_guides: tuple[str, ...] = DEFAULT_FUSION_GUIDES
    split: SplitSpec = field(default_factory=SplitSpec)
    evaluation_seed: int = 0
    final: bool = False

    def __post_init__(self) -> None:
        check_kinds(self)
        for name, known in (("encoder", [*ENCODERS, DIFFUSION]), ("guide", [*GUIDE_NAMES])):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name}={getattr(self, name)!r}; choose one of {known}")
        if self.guide == MULTINOMIAL and self.diffusion.likelihood != "multinomial":
            raise ValueError(
                f"guide='multinomial' needs diffusion.likelihood='multinomial', got "
                f"{self.diffusion.likelihood!r}: take RunConfig.from_preset(..., guide="
                "'multinomial')"
            )
        if self.guide == L_DIFFREC and self.latent.weighting != "none":
            raise ValueError(
                f"guide='l-diffrec' weights all interactions alike, latent.weighting is "
                f"{self.latent.weighting!r}: take guide={LT_DIFFREC!r}"
            )
        options = None
        if self.encoder != DIFFUSION:
            options = encoder_config(self.encoder, self.encoder_options)
        object.__setattr__(self, "encoder_options", options)
        guides = self.fusion_guides
        unknown = [name for name in guides if name not in FUSION_GUIDES]
        if unknown or not self.fusion_guides or len(set(guides)) < len(guides):
            raise ValueError(
                f"fusion_guides={guides!r}: choose at least one of {FUSION_GUIDES}, each once"
            )
        if self.guide != DIFFUSION and not self.needs_guide:
            raise ValueError(f"guide={self.guide!r} was given, but no module that would use it")
        if self.top_m < 1 or self.n_draws < 1:
            raise ValueError(f"top_m={self.top_m} and n_draws={self.n_draws} must be at least 1")
        if "dpa" in self.pdrec.modules and self.pdrec.dpa_top_n > self.top_m:
            raise ValueError(f"dpa_top_n={self.pdrec.dpa_top_n} is more than top_m={self.top_m}")
        if not 0 <= self.omega_m < 1:
            raise ValueError(f"omega_m must lie in [0, 1), got {self.omega_m}")
        if self.evaluation_seed < 0:
            raise ValueError(f"evaluation_seed={self.evaluation_seed} must not be negative")

    @classmethod
    def from_preset(
        cls,
        name: str,
        *,
        encoder: str = "sasrec",
        modules: tuple[Module, ...] | None = None,
        guide: str = DIFFUSION,
        seed: int = 0,
    ) -> RunConfig:
        """The settings of a preset (``pdrec_fast.presets``) with one seed for everything.

        Its modules are the paper's three, those of the default preset the fusion, unless
        ``modules`` says otherwise.

        A tuned preset, or a file that ``pdrec-fast tune`` wrote, has settings of its own for every
        encoder: those of the plain backbone where ``modules`` is empty, the guided ones otherwise.
        The default preset has one backbone for both: encoder, loss, number of negatives, budget
        and selection are the same.

        Raises:
            ValueError: no such preset, or it has nothing for this encoder.
        """
        name = current_name(name)
        modules = modules_of(name) if modules is None else modules
        kind = kind_of(modules)
        preset, tuned = preset_of(
            name, encoder=None if encoder == DIFFUSION else encoder, kind=kind
        )
        diffusion = (PRESETS[DEFAULT] if guide == MULTINOMIAL else preset).diffusion
        config = cls(
            diffusion=replace(diffusion, seed=seed),
            pdrec=replace(preset.pdrec, modules=modules, seed=seed),
            encoder=encoder,
            guide=guide,
            top_m=preset.top_m,
            omega_m=preset.omega_m,
            n_draws=preset.n_draws,
            codigem=CodigemConfig(seed=seed),
            latent=LatentConfig(seed=seed),
        )
        if guide == MULTINOMIAL:  # whatever was found for the preset's own
            tuned = {key: tuned[key] for key in tuned if not key.startswith("diffusion.")}
        try:
            return with_settings(config, tuned)
        except ValueError as error:
            raise ValueError(f"{name}: {encoder}, {kind}: {error}") from None

    @property
    def needs_preferences(self) -> bool:
        return bool(self.pdrec.training_modules) and self.encoder != DIFFUSION

    @property
    def fuses(self) -> bool:
        """Whether other scorers have a share in the encoder's logits."""
        return "fusion" in self.pdrec.modules and self.encoder != DIFFUSION

    @property
    def fuses_guide(self) -> bool:
        """Whether the guide is among those scorers."""
        return self.fuses and "guide" in self.fusion_guides

    @property
    def needs_guide(self) -> bool:
        return self.needs_preferences or self.fuses_guide

    @property
    def needs_diffusion(self) -> bool:
        return self.encoder == DIFFUSION or (self.needs_guide and self.guided_by_diffusion)

    @property
    def guided_by_diffusion(self) -> bool:
        """Whether the guide is the run's diffusion model."""
        return self.guide in (DIFFUSION, MULTINOMIAL)

    def guide_config(self) -> RunConfig:
        """The run that trains the guide, where that is an encoder."""
        return replace(
            self,
            encoder=self.guide,
            encoder_options=self.encoder_options if self.guide == self.encoder else None,
            guide=DIFFUSION,
            pdrec=replace(self.pdrec, modules=(), seed=(self.pdrec.seed + 1) % 2**32),
        )

    @classmethod
    def from_description(cls, values: Mapping[str, Any]) -> RunConfig:
        """The configuration that ``describe`` gave these values."""
        own = {name: value for name, value in values.items() if name != "format"}
        return cls(
            **own
            | {
                "diffusion": DiffusionConfig(**own["diffusion"]),
                "pdrec": PDRecConfig(**own["pdrec"]),
                "linear": LinearConfig(**own["linear"]),
                "item_knn": ItemKNNConfig(**own["item_knn"]),
                "codigem": CodigemConfig(**own["codigem"]),
                "latent": LatentConfig(**own["latent"]),
                "split": SplitSpec(**own["split"]),
                "fusion_guides": tuple(own["fusion_guides"]),
            }
        )

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        values: dict[str, Any] = json.loads(json.dumps({"format": FORMAT} | asdict(self)))
        return values
