"""Gains and p-values, against numbers by hand and scipy on other arrays."""

import math

import numpy as np
import pytest
from scipy import stats

from pdrec_fast.evaluation import Ranks, metric_names, per_case, summarize_all
from pdrec_fast.studies.comparisons import compare, gain_percent, paired_p, sample_sd
from pdrec_fast.studies.finished import FinishedJob
from pdrec_fast.studies.jobs import Job
from pdrec_fast.studies.schema import TABLES


def finished(model, modules, guide, seed, greater):
    """A job whose test cases have so many of 99 others above the target, whatever the protocol."""
    n = len(greater)
    ranks = Ranks(np.array(greater), np.zeros(n), np.full(n, 99))
    found = {"paper": {"test": ranks}}
    metrics = {"protocols": summarize_all(found)}
    run = FinishedJob(None, Job("toy", model, modules, guide, seed), "toy", metrics)
    run.__dict__["ranks"] = found  # in place of a file
    return run


PLAIN = [[0, 3, 9, 40, 2], [1, 3, 12, 30, 2], [0, 5, 8, 60, 4]]
HBR = [[0, 2, 9, 20, 1], [0, 3, 9, 33, 2], [0, 4, 2, 50, 3]]


@pytest.fixture
def rows():
    runs = [finished("sasrec", "none", "", seed, ranks) for seed, ranks in enumerate(PLAIN)]
    runs += [finished("sasrec", "hbr", "ti-diffrec", seed, ranks) for seed, ranks in enumerate(HBR)]
    return {row["metric"]: row for row in compare(runs)}


def test_columns_are_the_contract(rows):
    assert rows.keys() == set(metric_names())
    assert all(list(row) == list(TABLES["comparisons"]) for row in rows.values())
    row = rows["hr@5"]
    assert (row["data"], row["model"], row["modules"]) == ("toy", "sasrec", "hbr")
    assert (row["guide"], row["baseline"]) == ("ti-diffrec", "none")
    assert (row["seeds"], row["users"]) == (3, 5)


def test_hit_rates_by_hand(rows):
    row = rows["hr@5"]
    # Hits: plain 3, 3, 2 of 5 cases; with HBR 3, 3, 4.
    assert row["baseline_mean"] == pytest.approx(8 / 15)
    assert row["mean"] == pytest.approx(10 / 15)
    assert row["gain_percent"] == pytest.approx(25)
    assert row["baseline_sd"] == pytest.approx(0.2 / math.sqrt(3))
    # Differences over seeds 0, 0, .4: t = (.4 / 3) / (sd / sqrt(3)) = 1, two degrees of freedom.
    assert row["p_seeds"] == pytest.approx(2 * stats.t.sf(1, 2))
    # Over users 0, 1/3, 1/3, 0, 0: t = .1333 / (.18257 / sqrt(5)).
    assert row["p_users"] == pytest.approx(2 * stats.t.sf(1.6329931618554523, 4))


def test_tests_are_scipys(rows):
    plain, hbr = (
        np.array(
            [per_case(Ranks(np.array(r), np.zeros(5), np.full(5, 99)), "ndcg@10") for r in by_seed]
        )
        for by_seed in (PLAIN, HBR)
    )
    row = rows["ndcg@10"]
    assert row["p_seeds"] == pytest.approx(stats.ttest_rel(hbr.mean(1), plain.mean(1)).pvalue)
    assert row["p_users"] == pytest.approx(stats.ttest_rel(hbr.mean(0), plain.mean(0)).pvalue)
    assert row["mean"] == pytest.approx(hbr.mean())
    assert row["sd"] == pytest.approx(hbr.mean(1).std(ddof=1))


def test_only_seeds_of_both_count():
    runs = [finished("sasrec", "none", "", seed, PLAIN[seed]) for seed in (0, 2)]
    runs += [finished("sasrec", "hbr", "ti-diffrec", seed, HBR[seed]) for seed in (1, 2)]
    row = next(row for row in compare(runs) if row["metric"] == "auc")
    assert row["seeds"] == 1
    assert row["mean"] == runs[3].metrics["protocols"]["paper"]["test"]["auc"]
    assert math.isnan(row["p_seeds"])
    assert math.isnan(row["sd"])
    assert 0 < row["p_users"] < 1


def test_what_is_compared_with_what():
    variants = [
        ("t-diffrec", "none", ""),
        ("ti-diffrec", "none", ""),
        ("sasrec", "none", ""),
        ("sasrec", "hbr", "ti-diffrec"),
        ("sasrec", "hbr+nns", "ti-diffrec"),
        ("sasrec", "hbr+nns+dpa", "ti-diffrec"),
        ("sasrec", "dpa", "ti-diffrec"),
        ("sasrec", "hbr+nns+dpa", "sasrec"),
        ("gru4rec", "hbr", "ti-diffrec"),
    ]
    rows = list(compare([finished(*variant, 0, PLAIN[0]) for variant in variants]))
    pairs = [
        (row["model"], row["modules"], row["guide"], row["baseline"])
        for row in rows
        if row["metric"] == "auc"
    ]
    assert pairs == [
        ("ti-diffrec", "none", "", "t-diffrec"),
        ("sasrec", "hbr", "ti-diffrec", "none"),
        ("sasrec", "hbr+nns", "ti-diffrec", "none"),
        ("sasrec", "hbr+nns", "ti-diffrec", "hbr"),
        ("sasrec", "hbr+nns+dpa", "ti-diffrec", "none"),
        ("sasrec", "hbr+nns+dpa", "ti-diffrec", "hbr+nns"),
        ("sasrec", "hbr+nns+dpa", "ti-diffrec", "hbr+nns+dpa by sasrec"),
        ("sasrec", "dpa", "ti-diffrec", "none"),
        ("sasrec", "hbr+nns+dpa", "sasrec", "none"),
    ]


def test_what_no_number_can_say_is_nan():
    assert math.isnan(paired_p(np.array([0.3]), np.array([0.1])))
    assert math.isnan(paired_p(np.array([0.3, 0.1]), np.array([0.3, 0.1])))
    assert math.isnan(gain_percent(0.1, 0.0))
    assert math.isnan(sample_sd(np.array([0.3])))
    assert gain_percent(0.264, 0.24) == pytest.approx(10)
