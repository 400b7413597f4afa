"""Names and numbers as a report prints them."""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone

from pdrec_fast.studies.jobs import MODEL_NAMES

_SPACE = "\N{NO-BREAK SPACE}"


def model_name(model: str) -> str:
    return MODEL_NAMES.get(model, model)


def metric_name(metric: str) -> str:
    """As in the paper: "N@10", "HR@5", "AUC"."""
    return metric.upper().replace("NDCG", "N")


METRIC = "ndcg@10"  # that figures and sentences are about
METRIC_NAME = metric_name(METRIC)


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
