"""Names, orders and numbers as a report prints them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import datetime, timezone

from pdrec_fast.studies.jobs import FULL, GUIDE, INCREMENTS, MODEL_NAMES, PLAIN, WEIGHTINGS
from pdrec_fast.studies.schema import DataSet, Variant

_PAPERS_DATA = ("toy", "game", "book", "music")
_SPACE = "\N{NO-BREAK SPACE}"
_STEPS = (PLAIN, *INCREMENTS)


def model_name(model: str) -> str:
    return MODEL_NAMES.get(model, model)


def data_name(data_set: DataSet) -> str:
    """E.g. "Toy", or "Toy (preset toy-tuned)"; foreign names stay as they are."""
    parts = data_set.data.split("-to-")
    name = " → ".join(part.capitalize() if part in _PAPERS_DATA else part for part in parts)
    expected = parts[-1] if parts[-1] in _PAPERS_DATA else "none"  # as a study chooses it
    return name if data_set.preset == expected else f"{name} (preset {data_set.preset})"


def modules_name(variant: Variant) -> str:
    """What a variant adds to its backbone, e.g. "+ HBR + NNS"."""
    added = " ".join(f"+ {name.upper()}" for name in variant.modules.split("+"))
    return added if guided_by_diffusion(variant) else f"{added}, guide {model_name(variant.guide)}"


def variant_name(variant: Variant) -> str:
    """E.g. "SASRec", "SASRec + HBR", "PDRec (SASRec)", "PDRec (SASRec), guide SASRec"."""
    name = model_name(variant.model)
    if variant.modules == PLAIN:
        return name
    if variant.modules == FULL:
        by = "" if guided_by_diffusion(variant) else f", guide {model_name(variant.guide)}"
        return f"PDRec ({name}){by}"
    return f"{name} {modules_name(variant)}"


def metric_name(metric: str) -> str:
    """As in the paper: "N@10", "HR@5", "AUC"."""
    return metric.upper().replace("NDCG", "N")


def is_diffusion(variant: Variant) -> bool:
    return variant.model in WEIGHTINGS


def guided_by_diffusion(variant: Variant) -> bool:
    return variant.guide in ("", GUIDE)


def is_full(variant: Variant) -> bool:
    """PDRec as the paper means it: all modules, guided by TI-DiffRec."""
    return variant.modules == FULL and guided_by_diffusion(variant)


def in_order(variants: Iterable[Variant]) -> list[Variant]:
    """Diffusion models, then each encoder: alone, the paper's steps, other modules and guides."""
    models = [*WEIGHTINGS, "gru4rec", "sasrec", "cl4srec"]

    def place(variant: Variant) -> tuple[object, ...]:
        model, modules = variant.model, variant.modules
        known = models.index(model) if model in models else len(models)
        step = _STEPS.index(modules) if modules in _STEPS else len(_STEPS)
        return known, model, not guided_by_diffusion(variant), step, modules, variant.guide

    return sorted(variants, key=place)


def figure(value: float, sign: bool = False) -> str:
    """A metric with four digits and no leading zero: ".2305"; "–" for NaN."""
    if math.isnan(value):
        return "–"
    rounded = round(value, 4) + 0.0  # no negative zero
    return _without_zero(f"{rounded:{'+' if sign else ''}.4f}")


def with_spread(mean: float, sd: float) -> str:
    """ ".2305 ± .0020"; without the spread where there is none."""
    return figure(mean) if math.isnan(sd) else f"{figure(mean)}{_SPACE}±{_SPACE}{figure(sd)}"


def number(value: float, digits: int = 0) -> str:
    """With thousands apart: "1,234.5"; "–" for NaN."""
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"


def interval(first: float, last: float) -> str:
    """ "5,001–10,000", or one number where both are the same."""
    return number(first) if first == last else f"{number(first)}–{number(last)}"


def moment(time: float) -> str:
    """The date where a timestamp looks like Unix seconds, else the number, "" for NaN."""
    if math.isnan(time):
        return ""
    if 1e8 < time < 1e10:
        return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d")
    return f"{time:g}"


def percent(value: float) -> str:
    """ "+13.2 %"; "–" for NaN."""
    if math.isnan(value):
        return "–"
    return f"{round(value, 1) + 0.0:+.1f}{_SPACE}%".replace("-", "−")


def p_value(p: float) -> str:
    """ "p = .003", "p < .001"; "p not defined" for NaN."""
    if math.isnan(p):
        return "p not defined"
    shown = "p < .001" if p < 0.001 else f"p = {_without_zero(f'{p:.3f}')}"
    return shown.replace(" ", _SPACE)


def _without_zero(number: str) -> str:
    return re.sub(r"^([+-]?)0\.", r"\1.", number).replace("-", "−")
