"""The paper's figures, to be printed beside ours.

Ma, Xie, Meng, Chen, Zhang, Lin, Zhou: "Plug-In Diffusion Model for Sequential Recommendation",
AAAI 2024, Tables 1 and 3; means of five seeds, one target against 99 sampled negatives.
``paper.csv`` has them; Table 1 has fewer metrics.
"""

from __future__ import annotations

import csv
from importlib.resources import files

from pdrec_fast.studies.variants import Variant

PROTOCOL = "paper"
TABLE_1_METRICS = ("ndcg@1", "ndcg@5", "ndcg@10", "hr@5", "hr@10", "auc")
TABLE_3_METRICS = (
    *(f"ndcg@{k}" for k in (1, 5, 10, 20, 50)),
    *(f"hr@{k}" for k in (5, 10, 20, 50)),
    "auc",
)


def paper_value(data: str, model: str, modules: str, metric: str) -> float | None:
    """What the paper reports on the test split under the ``paper`` protocol, or None.

    Args:
        data: name of a data set: toy, game, book, music (Table 1); game-to-toy, toy-to-game
            (Table 3). Case does not matter.
        model: as in a study's results, e.g. ``"ti-diffrec"``, ``"sasrec"``.
        modules: ``"none"``, or in the paper's order ``"hbr"``, ``"hbr+nns"``, ``"hbr+nns+dpa"``.
        metric: e.g. ``"ndcg@10"``.
    """
    return _VALUES.get((data.lower(), model, modules, metric))


def paper_result(variant: Variant, protocol: str, metric: str) -> float | None:
    """What the paper reports of a variant, guided by TI-DiffRec; None under another protocol."""
    if protocol != PROTOCOL or not variant.guided_by_diffusion:
        return None
    return paper_value(variant.data, variant.model, variant.modules, metric)


def _values() -> dict[tuple[str, str, str, str], float]:
    text = files("pdrec_fast.studies").joinpath("paper.csv").read_text(encoding="utf-8")
    return {
        (row["data"], row["model"], row["modules"], metric): float(row[metric])
        for row in csv.DictReader(text.splitlines())
        for metric in TABLE_3_METRICS
        if row[metric]
    }


_VALUES = _values()
