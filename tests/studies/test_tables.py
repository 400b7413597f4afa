"""Markdown from the two CSV files."""

import pandas as pd
import pytest

from pdrec_fast.studies.paper import TABLE_1_METRICS, TABLE_3_METRICS
from pdrec_fast.studies.schema import TABLES
from pdrec_fast.studies.tables import format_tables

TABLE_1 = (
    ("t-diffrec", "none", ""),
    ("ti-diffrec", "none", ""),
    ("sasrec", "none", ""),
    ("sasrec", "hbr+nns+dpa", "ti-diffrec"),
)
GAIN = {"gain_percent": 25.0, "p_users": 0.004, "p_seeds": float("nan")}


def tables(variants, data="toy", protocols=("paper",), seeds=2, gain=GAIN, baseline="none"):
    """Of results that are 0.2 and 0.21 for the two seeds."""
    results, comparisons = [], []
    for variant in variants:
        for protocol in protocols:
            for metric in TABLE_3_METRICS:
                key = (data, "toy", *variant)
                for seed in range(seeds):
                    value = 0.2 + 0.01 * seed
                    results.append([*key, seed, protocol, "test", metric, value, 1.5])
                    results.append([*key, seed, protocol, "valid", metric, 0.9, 1.5])
                numbers = dict.fromkeys(list(TABLES["comparisons"])[5:], 0) | gain
                numbers |= {"baseline": baseline, "protocol": protocol, "split": "test"}
                comparisons.append([*key, *(numbers | {"metric": metric}).values()])
    return format_tables(
        pd.DataFrame(results, columns=list(TABLES["results"])),
        pd.DataFrame(comparisons, columns=list(TABLES["comparisons"])),
    )


def cells(text, head):
    """Of the first row that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {head} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_1_has_the_papers_figures_and_the_difference():
    text = tables(TABLE_1)
    assert "### toy, protocol paper (1 target vs 99 sampled negatives)" in text
    assert cells(text, "Model") == ["Model", "N@1", "N@5", "N@10", "HR@5", "HR@10", "AUC"]
    mean = "0.2050 (0.0071)<br>paper"
    assert cells(text, "SASRec")[3] == f"{mean} 0.2020, +0.0030"
    assert cells(text, "SASRec +HBR+NNS+DPA")[3] == f"{mean} 0.2286, -0.0236"
    assert cells(text, "TI-DiffRec")[6] == f"{mean} 0.5968, -0.3918"
    assert cells(text, "gain over SASRec")[1] == "+25.00 %\\*\\*<br>p 0.004 users, – seeds"
    assert "0.9000" not in text  # validation


def test_the_paper_reports_nothing_of_other_data_and_protocols():
    assert "<br>paper" not in tables(TABLE_1, data="toys")
    text = tables(TABLE_1, protocols=("full",))
    assert "1 target vs all items not in the history" in text
    assert "<br>paper" not in text


def test_one_seed_has_no_spread():
    assert cells(tables(TABLE_1, data="x", seeds=1), "SASRec")[1] == "0.2000"


@pytest.mark.parametrize(
    ("gain", "p_users", "p_seeds", "shown"),
    [
        (-4.0, 3e-12, 0.2, "-4.00 %\\*\\*\\*<br>p 3e-12 users, 0.2 seeds"),
        (1.0, 0.03, 0.01, "+1.00 %\\*<br>p 0.03 users, 0.01 seeds"),
        (1.0, 0.05, 0.01, "+1.00 %<br>p 0.05 users, 0.01 seeds"),
        (float("nan"), float("nan"), 1.0, "–<br>p – users, 1 seeds"),
    ],
)
def test_stars_say_how_sure_a_gain_is(gain, p_users, p_seeds, shown):
    numbers = {"gain_percent": gain, "p_users": p_users, "p_seeds": p_seeds}
    assert cells(tables(TABLE_1, gain=numbers), "gain over SASRec")[1] == shown


def test_variants_of_an_encoder_have_a_table_like_table_3():
    variants = (
        *TABLE_1[:3],
        ("sasrec", "hbr", "ti-diffrec"),
        ("sasrec", "hbr+nns", "ti-diffrec"),
        TABLE_1[3],
    )
    text = tables(variants, data="game-to-toy")
    assert text.count("| Model |") == 1
    assert cells(text, "Model") == [
        "Model", "N@1", "N@5", "N@10", "N@20", "N@50", "HR@5", "HR@10", "HR@20", "HR@50", "AUC",
    ]  # fmt: skip
    assert cells(text, "SASRec +HBR+NNS")[10].endswith("paper 0.6123, -0.4073")
    assert cells(text, "T-DiffRec")[9].endswith("paper 0.5780, -0.3730")


def test_both_tables_where_only_one_encoder_is_taken_apart():
    text = tables((*TABLE_1, ("gru4rec", "none", ""), ("sasrec", "hbr", "ti-diffrec")))
    assert text.count("| Model |") == 2
    assert len(cells(text, "Model")) == 1 + len(TABLE_1_METRICS)
    assert "**SASRec and its variants**" in text
    assert "**GRU4Rec and its variants**" not in text


def test_another_guide_is_named_and_compared():
    other = ("sasrec", "hbr+nns+dpa", "sasrec")
    text = tables((*TABLE_1, other), baseline="hbr+nns+dpa by sasrec")
    assert "paper" not in cells(text, "SASRec +HBR+NNS+DPA, guided by SASRec")[1]
    assert cells(text, "gain over +HBR+NNS+DPA by SASRec")[1].startswith("+25.00 %")


def test_ti_diffrec_is_compared_with_t_diffrec():
    assert cells(tables(TABLE_1, baseline="t-diffrec"), "gain over T-DiffRec")[1].startswith("+25")
