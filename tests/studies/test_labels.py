"""Names, orders and numbers."""

import math

import pytest

from pdrec_fast.studies import labels
from pdrec_fast.studies.variants import DataSet, Variant, in_order

NAN = math.nan


def variant(model, modules="none", guide=""):
    return Variant("toy", "toy", model, modules, guide)


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (variant("t-diffrec"), "T-DiffRec"),
        (variant("sasrec"), "SASRec"),
        (variant("sasrec", "hbr+nns", "ti-diffrec"), "SASRec + HBR + NNS"),
        (variant("sasrec", "hbr+nns+dpa", "ti-diffrec"), "PDRec (SASRec)"),
        (variant("sasrec", "hbr+nns+dpa", "gru4rec"), "PDRec (SASRec), guide GRU4Rec"),
        (variant("sasrec", "dpa", "sasrec"), "SASRec + DPA, guide SASRec"),
        (variant("mine"), "mine"),
    ],
)
def test_names_of_variants(of, name):
    assert of.name == name


@pytest.mark.parametrize(
    ("data", "preset", "name"),
    [
        ("toy", "toy", "Toy"),
        ("toy", "none", "Toy (preset none)"),
        ("toy", "toy-tuned", "Toy (preset toy-tuned)"),
        ("shop", "default", "shop"),
        ("shop", "none", "shop"),  # as version 0.1.0 called the default
        ("shop", "toy", "shop (preset toy)"),
        ("game-to-toy", "toy", "Game → Toy"),
        ("game-to-toy", "none", "Game → Toy (preset none)"),
    ],
)
def test_names_of_data(data, preset, name):
    assert DataSet(data, preset).name == name


def test_order():
    expected = [
        variant("diffrec"),
        variant("ti-diffrec"),
        variant("gru4rec"),
        variant("sasrec"),
        variant("sasrec", "hbr", "ti-diffrec"),
        variant("sasrec", "hbr+nns", "ti-diffrec"),
        variant("sasrec", "hbr+nns+dpa", "ti-diffrec"),
        variant("sasrec", "dpa", "ti-diffrec"),
        variant("sasrec", "nns", "ti-diffrec"),
        variant("sasrec", "hbr+nns+dpa", "sasrec"),
        variant("mine"),
    ]
    assert in_order(reversed(expected)) == expected


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (labels.figure(0.23049), ".2305"),
        (labels.figure(1.0), "1.0000"),
        (labels.figure(10.0), "10.0000"),
        (labels.figure(NAN), "–"),
        (labels.figure(-0.0112, sign=True), "−.0112"),
        (labels.figure(0.0112, sign=True), "+.0112"),
        (labels.figure(-0.00001, sign=True), "+.0000"),
        (labels.with_spread(0.25, 0.0021), ".2500 ± .0021"),
        (labels.with_spread(0.25, NAN), ".2500"),
        (labels.percent(-4.36), "−4.4 %"),
        (labels.percent(13.2), "+13.2 %"),
        (labels.percent(-0.01), "+0.0 %"),
        (labels.percent(NAN), "–"),
        (labels.p_value(0.0004), "p < .001"),
        (labels.p_value(0.0031), "p = .003"),
        (labels.p_value(1.0), "p = 1.000"),
        (labels.p_value(NAN), "p not defined"),
        (labels.number(1234.56, 1), "1,234.6"),
        (labels.number(NAN), "–"),
        (labels.interval(5001, 10000), "5,001–10,000"),
        (labels.interval(1, 1), "1"),
        (labels.moment(1.2e9), "2008-01-10"),
        (labels.moment(12.0), "12"),
        (labels.moment(NAN), ""),
    ],
)
def test_numbers(shown, text):
    assert shown.replace("\N{NO-BREAK SPACE}", " ") == text
