"""The paper's figures, each table's corners and some from within."""

import pytest

from pdrec_fast.studies.paper import paper_value


@pytest.mark.parametrize(
    ("data", "model", "modules", "metric", "value"),
    [
        ("toy", "t-diffrec", "none", "ndcg@1", 0.1033),
        ("toy", "gru4rec", "hbr+nns+dpa", "ndcg@10", 0.1879),
        ("toy", "sasrec", "none", "ndcg@10", 0.2020),
        ("toy", "sasrec", "hbr+nns+dpa", "ndcg@10", 0.2286),
        ("Toy", "cl4srec", "hbr+nns+dpa", "auc", 0.6068),
        ("game", "ti-diffrec", "none", "hr@5", 0.3618),
        ("book", "cl4srec", "none", "hr@10", 0.7197),
        ("music", "t-diffrec", "none", "ndcg@1", 0.3401),
        ("music", "cl4srec", "hbr+nns+dpa", "auc", 0.9026),
        ("game-to-toy", "t-diffrec", "none", "ndcg@1", 0.0981),
        ("game-to-toy", "sasrec", "hbr+nns", "auc", 0.6123),
        ("toy-to-game", "sasrec", "none", "hr@20", 0.6955),
        ("toy-to-game", "sasrec", "hbr+nns+dpa", "auc", 0.8153),
    ],
)
def test_values_are_the_papers(data, model, modules, metric, value):
    assert paper_value(data, model, modules, metric) == value


@pytest.mark.parametrize(
    ("data", "model", "modules", "metric"),
    [
        ("toys", "sasrec", "none", "ndcg@10"),
        ("toy", "diffrec", "none", "ndcg@10"),
        ("toy", "sasrec", "hbr", "ndcg@10"),
        ("toy", "sasrec", "none", "mrr"),
    ],
)
def test_what_the_paper_does_not_report_is_none(data, model, modules, metric):
    assert paper_value(data, model, modules, metric) is None


def test_gains_that_the_paper_prints_come_out():
    for data, model, gain in (("toy", "gru4rec", 7.07), ("book", "sasrec", 2.30)):
        plain, guided = (
            paper_value(data, model, modules, "ndcg@10") for modules in ("none", "hbr+nns+dpa")
        )
        assert 100 * (guided / plain - 1) == pytest.approx(gain, abs=0.01)
