"""Files of a made-up study, whose numbers can be told from the arguments."""

import csv
import json
import math

from pdrec_fast.studies.paper import TABLE_3_METRICS
from pdrec_fast.studies.schema import TABLES

GUIDED = ("sasrec", "hbr+nns+dpa", "ti-diffrec")
PLAIN = ("sasrec", "none", "")
VARIANTS = (
    ("t-diffrec", "none", ""),
    ("ti-diffrec", "none", ""),
    PLAIN,
    ("sasrec", "hbr", "ti-diffrec"),
    ("sasrec", "hbr+nns", "ti-diffrec"),
    GUIDED,
    ("sasrec", "hbr+nns+dpa", "sasrec"),
    ("gru4rec", "none", ""),
    ("gru4rec", "hbr+nns+dpa", "ti-diffrec"),
)
NAMES = {"data": "toy", "preset": "toy"}


def value_of(variant, seed, metric="ndcg@10", protocol="paper"):
    """Different for every variant, metric and protocol."""
    place = VARIANTS.index(variant) if variant in VARIANTS else 9
    part = TABLE_3_METRICS.index(metric) if metric in TABLE_3_METRICS else 0
    return 0.2 + 0.01 * place + 0.001 * part + 0.0004 * seed - (0.1 if protocol == "full" else 0)


def write_study(
    folder,
    data="toy",
    preset="toy",
    variants=VARIANTS,
    seeds=(0, 1, 2),
    protocols=("paper",),
    without=(),
    user="u1",
    item="i1",
    p_seeds=0.0123,
    settings=(),
    shift=0.0,
):
    """study.json and the CSV files, but for those in ``without``, in a new ``folder``."""
    folder.mkdir()
    of = {"name": data, "preset": preset, "users": 60, "items": 150, "records": 1234}
    study = {
        "study": "main+ablation",
        "data": [of | {"fingerprint": "f"}],
        "encoders": ["gru4rec", "sasrec"],
        "seeds": list(seeds),
        "settings": list(settings),
        "version": "9.8.7",
        "torch": "2.0",
        "machine": "an abacus, 2 cores",
        "finished": "2026-05-04T23:30:00+00:00",
        "command": f"pdrec-fast study main --data {data}.inter --out {folder.name}",
    }
    (folder / "study.json").write_text(json.dumps(study))
    rows = {
        "results": _results(data, preset, variants, seeds, protocols, shift),
        "comparisons": _comparisons(data, preset, variants, seeds, protocols, p_seeds),
        "curves": _curves(data, preset, variants, seeds),
        "ranks": [
            [data, preset, seed, known, first, last, cases]
            for seed in seeds
            for known, counts in ((1, (1, 4, 10)), (0, (0, 0, 5)))
            for first, last, cases in zip((1, 11, 101), (10, 100, 200), counts, strict=True)
        ],
        "popularity": [
            [data, preset, *variant, seed, protocol, "ndcg@10", first, last, cases, value]
            for variant in variants
            for seed in seeds
            for protocol in protocols
            for first, last, cases, value in (
                (0, 0, 5, 0.0),
                (2, 4, 15, 2 * value_of(variant, seed, "ndcg@10", protocol)),
            )
        ],
        "hbr": [
            [data, preset, seed, who, place, item, 1.2e9 + 86_400 * place, 0.5, 1, 0.75 * place]
            for seed in seeds
            for who, length in ((user, 2), ("longer", 20))
            for place in range(1, length + 1)
        ],
    }
    for name in rows.keys() - set(without):
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([TABLES[name], *rows[name]])
    return folder


def _results(data, preset, variants, seeds, protocols, shift):
    return [
        [data, preset, *variant, seed, protocol, split, metric, value, 1.5]
        for variant in variants
        for seed in seeds
        for protocol in protocols
        for metric in TABLE_3_METRICS
        for split, value in (
            ("valid", 0.9999),
            ("test", shift + value_of(variant, seed, metric, protocol)),
        )
    ]


def _comparisons(data, preset, variants, seeds, protocols, p_seeds):
    rows = []
    for variant in variants:
        baselines = ["none"] if variant[1] != "none" else []
        for baseline in baselines + (["t-diffrec"] if variant[0] == "ti-diffrec" else []):
            for protocol in protocols:
                for metric in TABLE_3_METRICS:
                    mean = value_of(variant, 1, metric, protocol)
                    gain = [7.25 if variant == GUIDED else -3.5, p_seeds, 0.0004]
                    numbers = [mean, math.nan, 0.25, 0.0011, *gain]
                    for split, values in (("test", numbers), ("valid", [0.9999] * 7)):
                        of = [baseline, protocol, split, metric, len(seeds), 60]
                        rows.append([data, preset, *variant, *of, *values])
    return rows


def _curves(data, preset, variants, seeds):
    return [
        [data, preset, *variant, seed, epoch, 2.5 * epoch, 1 / epoch, valid]
        for variant in variants
        for seed in seeds
        for epoch, valid in ((1, 0.1), (2, ""), (3, 0.15 + seed / 100), (4, 0.12))
    ]
