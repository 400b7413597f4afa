"""Data sets and variants of models, as the tables of a study name them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pdrec_fast.presets import DEFAULT
from pdrec_fast.studies.jobs import FULL, GUIDE, INCREMENTS, PLAIN, WEIGHTINGS
from pdrec_fast.studies.labels import model_name

_PAPERS_DATA = ("toy", "game", "book", "music")
_STEPS = (PLAIN, *INCREMENTS)


class DataSet(NamedTuple):
    """A data set as it was run; the same data under two presets are two."""

    data: str
    preset: str

    @property
    def name(self) -> str:
        """E.g. "Toy", or "Toy (preset toy-tuned)"; foreign names stay as they are."""
        parts = self.data.split("-to-")
        name = " → ".join(part.capitalize() if part in _PAPERS_DATA else part for part in parts)
        # As a study chooses it; version 0.1.0 called the default "none".
        expected = parts[-1:] if parts[-1] in _PAPERS_DATA else (DEFAULT, "none")
        return name if self.preset in expected else f"{name} (preset {self.preset})"


class Variant(NamedTuple):
    """A model as it was run: ``modules`` is "none" or e.g. "hbr+nns+dpa"."""

    data: str
    preset: str
    model: str
    modules: str
    guide: str

    @property
    def data_set(self) -> DataSet:
        return DataSet(self.data, self.preset)

    @property
    def plain(self) -> Variant:
        """The same model without modules."""
        return self._replace(modules=PLAIN, guide="")

    @property
    def is_plain(self) -> bool:
        return self.modules == PLAIN

    @property
    def is_diffusion(self) -> bool:
        return self.model in WEIGHTINGS

    @property
    def guided_by_diffusion(self) -> bool:
        return self.guide in ("", GUIDE)

    @property
    def is_full(self) -> bool:
        """PDRec as the paper means it: all modules, guided by TI-DiffRec."""
        return self.modules == FULL and self.guided_by_diffusion

    @property
    def modules_name(self) -> str:
        """What a variant adds to its backbone, e.g. "+ HBR + NNS"."""
        return " ".join(f"+ {name.upper()}" for name in self.modules.split("+")) + self._by

    @property
    def name(self) -> str:
        """E.g. "SASRec", "SASRec + HBR", "PDRec (SASRec)", "PDRec (SASRec), guide SASRec"."""
        name = model_name(self.model)
        if self.modules == FULL:
            return f"PDRec ({name}){self._by}"
        return name if self.is_plain else f"{name} {self.modules_name}"

    @property
    def _by(self) -> str:
        return "" if self.guided_by_diffusion else f", guide {model_name(self.guide)}"


DATA_SET, VARIANT = list(DataSet._fields), list(Variant._fields)  # columns


def in_order(variants: Iterable[Variant]) -> list[Variant]:
    """Diffusion models, then each encoder: alone, the paper's steps, other modules and guides."""
    models = [*WEIGHTINGS, "gru4rec", "sasrec", "cl4srec"]

    def place(variant: Variant) -> tuple[object, ...]:
        model, modules = variant.model, variant.modules
        known = models.index(model) if model in models else len(models)
        step = _STEPS.index(modules) if modules in _STEPS else len(_STEPS)
        return known, model, not variant.guided_by_diffusion, step, modules, variant.guide

    return sorted(variants, key=place)
