"""The paper's figures, to be printed beside ours.

Ma, Xie, Meng, Chen, Zhang, Lin, Zhou: "Plug-In Diffusion Model for Sequential Recommendation",
AAAI 2024, Tables 1 and 3; means of five seeds, one target against 99 sampled negatives.
"""

from __future__ import annotations

from pdrec_fast.studies.jobs import FULL, INCREMENTS, PLAIN
from pdrec_fast.studies.variants import Variant

PROTOCOL = "paper"
TABLE_1_METRICS = ("ndcg@1", "ndcg@5", "ndcg@10", "hr@5", "hr@10", "auc")
TABLE_3_METRICS = (
    *(f"ndcg@{k}" for k in (1, 5, 10, 20, 50)),
    *(f"hr@{k}" for k in (5, 10, 20, 50)),
    "auc",
)
_DIFFUSIONS = (("t-diffrec", PLAIN), ("ti-diffrec", PLAIN))
_TABLE_1_MODELS = (
    *_DIFFUSIONS,
    *(
        (encoder, modules)
        for encoder in ("gru4rec", "sasrec", "cl4srec")
        for modules in (PLAIN, FULL)
    ),
)
_TABLE_3_MODELS = (*_DIFFUSIONS, *(("sasrec", modules) for modules in (PLAIN, *INCREMENTS)))
# Rows are metrics, columns models, as printed.
_TABLE_1 = {
    "toy": """
        .1033 .1058 .0878 .0899 .1095 .1247 .1125 .1254
        .1564 .1618 .1515 .1617 .1779 .2023 .1802 .2041
        .1758 .1823 .1755 .1879 .2020 .2286 .2046 .2305
        .2055 .2151 .2128 .2300 .2423 .2752 .2438 .2776
        .2657 .2787 .2874 .3112 .3169 .3568 .3195 .3595
        .5911 .5968 .5670 .5909 .5771 .6060 .5805 .6068
    """,
    "game": """
        .1611 .1746 .1667 .1808 .2111 .2191 .2106 .2180
        .2567 .2723 .2818 .2996 .3310 .3382 .3294 .3368
        .2895 .3040 .3199 .3380 .3682 .3753 .3682 .3750
        .3451 .3618 .3893 .4091 .4409 .4475 .4385 .4456
        .4469 .4600 .5071 .5282 .5559 .5626 .5584 .5638
        .7217 .7234 .7601 .7786 .7865 .7908 .7857 .7905
    """,
    "book": """
        .3194 .3275 .3072 .3359 .3594 .3656 .3554 .3621
        .4398 .4491 .4433 .4757 .4948 .5063 .4942 .5047
        .4671 .4776 .4765 .5091 .5272 .5393 .5276 .5376
        .5459 .5557 .5643 .6004 .6148 .6306 .6166 .6304
        .6300 .6435 .6667 .7033 .7150 .7323 .7197 .7317
        .8160 .8202 .8541 .8728 .8790 .8898 .8820 .8895
    """,
    "music": """
        .3401 .3494 .3299 .3540 .3753 .3826 .3689 .3755
        .4709 .4773 .4725 .5000 .5170 .5283 .5096 .5211
        .4987 .5049 .5069 .5348 .5503 .5620 .5435 .5558
        .5852 .5886 .5987 .6287 .6421 .6573 .6353 .6504
        .6706 .6738 .7048 .7361 .7447 .7612 .7400 .7573
        .8329 .8318 .8768 .8908 .8962 .9040 .8939 .9026
    """,
}
# Rows are models, columns metrics, as printed.
_TABLE_3 = {
    "game-to-toy": """
        .0981 .1520 .1727 .1934 .2375 .2029 .2673 .3494 .5780 .5924
        .1053 .1598 .1806 .2008 .2407 .2111 .2759 .3562 .5623 .5932
        .1267 .2019 .2261 .2490 .2785 .2722 .3472 .4380 .5873 .5951
        .1283 .2061 .2311 .2533 .2835 .2785 .3558 .4438 .5972 .6092
        .1264 .2068 .2323 .2542 .2844 .2815 .3606 .4480 .6013 .6123
        .1302 .2093 .2348 .2574 .2873 .2826 .3616 .4515 .6026 .6106
    """,
    "toy-to-game": """
        .1674 .2643 .2977 .3247 .3597 .3548 .4584 .5655 .7428 .7232
        .1709 .2757 .3096 .3378 .3721 .3723 .4773 .5887 .7622 .7407
        .2273 .3532 .3905 .4190 .4467 .4674 .5826 .6955 .8342 .8007
        .2332 .3597 .3963 .4250 .4547 .4741 .5872 .7006 .8501 .8145
        .2352 .3601 .3975 .4257 .4557 .4733 .5890 .7002 .8517 .8138
        .2363 .3623 .3992 .4275 .4572 .4761 .5904 .7022 .8520 .8153
    """,
}


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
    values = {}
    for data, text in _TABLE_1.items():
        for metric, line in zip(TABLE_1_METRICS, text.split("\n")[1:-1], strict=True):
            for (model, modules), number in zip(_TABLE_1_MODELS, line.split(), strict=True):
                values[data, model, modules, metric] = float(number)
    for data, text in _TABLE_3.items():
        for (model, modules), line in zip(_TABLE_3_MODELS, text.split("\n")[1:-1], strict=True):
            for metric, number in zip(TABLE_3_METRICS, line.split(), strict=True):
                values[data, model, modules, metric] = float(number)
    return values


_VALUES = _values()
