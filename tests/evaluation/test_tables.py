"""The text tables of results."""

from pdrec_fast.evaluation import format_results


def test_table_names_the_protocol_beside_every_number():
    results = {
        "SASRec": {"paper": {"test": {"hr@10": 0.3169, "auc": 0.5771}}},
        "GRU": {
            "paper": {"test": {"hr@10": 0.25, "auc": 0.5}},
            "full": {"test": {"hr@10": 0.01, "auc": 0.5}},
        },
    }
    assert format_results(results, metrics=("hr@10", "auc")).splitlines() == [
        "protocol: paper (1 target vs 99 sampled negatives), split: test",
        "protocol  model    hr@10     auc",
        "paper     SASRec  0.3169  0.5771",
        "paper     GRU     0.2500  0.5000",
        "",
        "protocol: full (1 target vs all items not in the history), split: test",
        "protocol  model   hr@10     auc",
        "full      GRU    0.0100  0.5000",
    ]
