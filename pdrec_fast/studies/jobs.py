"""What a study consists of: one job for every model, set of modules, guide and seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from pdrec_fast.encoders import ENCODERS
from pdrec_fast.pipeline import DIFFUSION
from pdrec_fast.training import MODULES, Module

Kind = Literal["main", "ablation", "universality", "cross-domain"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Diffusion models by name, and the weighting that makes each.
WEIGHTINGS = {"diffrec": "none", "t-diffrec": "rank", "ti-diffrec": "interval"}
GUIDE = "ti-diffrec"
PLAIN = "none"
# The paper adds the modules in this order.
INCREMENTS = ("hbr", "hbr+nns", "hbr+nns+dpa")
FULL = INCREMENTS[-1]
OTHER_GUIDE = "sasrec"  # the guide of the paper's "without TI-DiffRec"
MODEL_NAMES = {  # as the paper writes them
    "diffrec": "DiffRec",
    "t-diffrec": "T-DiffRec",
    "ti-diffrec": "TI-DiffRec",
    "gru4rec": "GRU4Rec",
    "sasrec": "SASRec",
    "cl4srec": "CL4SRec",
    "bert4rec": "BERT4Rec",
    "caser": "Caser",
    "mlp4rec": "MLP4Rec",
    "diffurec": "DiffuRec",
    "diffrec-star": "DiffRec*",
    "ligr": "LiGR",
    "hstu": "HSTU",
}


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        data: name of the data set.
        model: ``"diffrec"``, ``"t-diffrec"``, ``"ti-diffrec"`` or an encoder's name.
        modules: ``"none"``, or joined by ``+`` in the paper's order, e.g. ``"hbr+nns"``.
        guide: scorer that gives the preferences, ``"ti-diffrec"`` or an encoder's name; "" without
            modules.
        seed: of everything.
    """

    data: str
    model: str
    modules: str
    guide: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its run's directory, e.g. ``toy-sasrec+hbr+nns-0``."""
        model = self.model if self.modules == PLAIN else f"{self.model}+{self.modules}"
        by = f"-by-{self.guide}" if self.guide not in ("", GUIDE) else ""
        return f"{self.data}-{model}{by}-{self.seed}"

    @property
    def needs(self) -> Job | None:
        """The job that trains the diffusion model it is guided by; a fusion trains the preset's."""
        if self.guide != GUIDE or "fusion" in self.run_modules:
            return None
        return Job(self.data, GUIDE, PLAIN, "", self.seed)

    @property
    def encoder(self) -> str:
        """The encoder as ``RunConfig`` calls it."""
        return DIFFUSION if self.model in WEIGHTINGS else self.model

    @property
    def run_guide(self) -> str:
        """The guide as ``RunConfig`` calls it."""
        return DIFFUSION if self.guide in ("", GUIDE) else self.guide

    @property
    def run_modules(self) -> tuple[Module, ...]:
        """The modules as ``RunConfig`` takes them."""
        if self.modules == PLAIN:
            return ()
        return cast("tuple[Module, ...]", tuple(self.modules.split("+")))


_STEPS = [(modules, GUIDE) for modules in INCREMENTS]
_SINGLE = [(module, GUIDE) for module in MODULES if module not in INCREMENTS]
_FUSED = [("fusion", GUIDE)]
# What a study trains: diffusion models; encoders of the paper; (modules, guide) for each encoder.
_GRIDS: dict[Kind, tuple[list[str], list[str], list[tuple[str, str]]]] = {
    "main": (list(WEIGHTINGS), ["gru4rec", "sasrec", "cl4srec"], [(FULL, GUIDE)]),
    "ablation": ([GUIDE], ["sasrec"], [*_STEPS, *_SINGLE, *_FUSED, (FULL, OTHER_GUIDE)]),
    "universality": ([GUIDE], ["gru4rec", "cl4srec"], _STEPS),
    "cross-domain": (["t-diffrec", GUIDE], ["sasrec"], _STEPS),
}


def choose_encoders(kind: Kind, encoders: Iterable[str] | None) -> list[str]:
    """The encoders of a study: those given, or the paper's.

    Raises:
        ValueError: no such kind or encoder.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown study {kind!r}; choose one of {', '.join(KINDS)}")
    chosen = list(dict.fromkeys(_GRIDS[kind][1] if encoders is None else encoders))
    for encoder in chosen:
        if encoder not in ENCODERS:
            raise ValueError(f"unknown encoder {encoder!r}; choose among {', '.join(ENCODERS)}")
    return chosen


def list_jobs(
    kind: Kind, data: Iterable[str], encoders: Sequence[str], seeds: Sequence[int]
) -> list[Job]:
    """Every job: all of a seed before the next one, diffusion models first, those that guide ahead.

    So the whole table is there early, for fewer seeds.
    """
    diffusions, _, added = _GRIDS[kind]
    variants = [(model, PLAIN, "") for model in sorted(diffusions, key=lambda name: name != GUIDE)]
    for encoder in encoders:
        variants += [(encoder, PLAIN, ""), *((encoder, *each) for each in added)]
    return [Job(name, *variant, seed) for seed in seeds for name in data for variant in variants]
