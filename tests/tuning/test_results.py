"""What a search leaves."""

import csv
import json

import pytest

import pdrec_fast as pf
from pdrec_fast.tuning import SearchResult, Trial, merge
from pdrec_fast.tuning.results import write_trials

TRIALS = (
    Trial(0, "complete", 0.2, 3, 5, 1.5, {"pdrec.lr": 0.005}),
    Trial(1, "failed", None, 0, 1, 0.5, {"pdrec.lr": 0.02}),
    Trial(2, "complete", 0.25, 4, 5, 1.25, {"pdrec.lr": 0.002}),
    Trial(3, "pruned", 0.3, 2, 2, 0.5, {"pdrec.lr": 0.0005}),
    Trial(4, "complete", 0.25, 5, 5, 1.0, {"pdrec.lr": 0.003}),
)


def result(**changes):
    values = {
        "base": "toy",
        "encoder": "sasrec",
        "modules": (),
        "seed": 7,
        "epochs": 5,
        "protocol": "paper",
        "data": "abc",
        "fixed": {"encoder.width": 8},
        "first": (),
        "trials": TRIALS,
    }
    return SearchResult(**(values | changes))


def test_the_best_is_complete_and_the_first_of_equals():
    found = result()
    assert found.best.number == 2
    assert found.settings == {"encoder.width": 8, "pdrec.lr": 0.002}
    assert found.kind == "plain"
    assert result(modules=("nns",)).kind == "guided"
    summary = found.summary()
    assert (summary["before"], summary["after"]) == (0.2, 0.25)
    assert (summary["trials"], summary["pruned"], summary["failed"]) == (5, 1, 1)
    with pytest.raises(ValueError, match="none of 1 trials is complete"):
        _ = result(trials=TRIALS[1:2]).best


def test_trials_are_written_with_a_column_for_every_setting(tmp_path):
    write_trials(tmp_path / "trials.csv", TRIALS)
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert list(rows[0]) == [
        "number", "state", "value", "best_epoch", "epochs", "seconds", "pdrec.lr",
    ]  # fmt: skip
    assert [row["value"] for row in rows] == ["0.2", "", "0.25", "0.3", "0.25"]
    assert rows[3]["state"] == "pruned"


def test_searches_are_merged_into_one_file_that_is_a_preset(tmp_path):
    path = tmp_path / "tuned" / "toy-tuned.json"
    merge(path, result(modules=("hbr",), fixed={}), "pdrec-fast tune --seed 7")
    merge(path, result(), "pdrec-fast tune")
    merge(path, result(encoder="gru4rec"), "pdrec-fast tune")
    contents = json.loads(path.read_text())
    assert contents["base"] == "toy"
    assert list(contents["encoders"]["sasrec"]) == ["plain", "guided"]
    entry = contents["encoders"]["sasrec"]["guided"]
    assert entry["settings"] == {"pdrec.lr": 0.002}
    assert entry["search"]["command"] == "pdrec-fast tune --seed 7"
    assert entry["search"]["metric"] == "validation NDCG@10 (paper)"
    assert pf.RunConfig.from_preset(str(path), modules=()).encoder_options.width == 8
    assert pf.RunConfig.from_preset(str(path), modules=("nns",)).pdrec.lr == 0.002
    later = result(trials=TRIALS[:1])
    merge(path, later, "pdrec-fast tune")
    assert pf.RunConfig.from_preset(str(path), modules=()).pdrec.lr == 0.005


def test_unequal_budgets_are_told(tmp_path, caplog):
    path = tmp_path / "toy-tuned.json"
    merge(path, result(), "")
    merge(path, result(modules=("hbr",)), "")
    assert not caplog.records
    merge(path, result(modules=("hbr",), epochs=9), "")
    assert "give both the same before they are compared" in caplog.text


def test_other_files_are_left_alone(tmp_path):
    path = tmp_path / "toy-tuned.json"
    merge(path, result(), "")
    before = path.read_text()
    with pytest.raises(ValueError, match="begin with the preset 'toy', not 'book'"):
        merge(path, result(base="book"), "")
    with pytest.raises(ValueError, match="none of 1 trials"):
        merge(path, result(trials=TRIALS[1:2]), "")
    assert path.read_text() == before
    notes = tmp_path / "notes.json"
    notes.write_text("{}")
    with pytest.raises(ValueError, match="not a file of tuned settings"):
        merge(notes, result(), "")
    with pytest.raises(ValueError, match=r"NAME\.json"):
        merge(tmp_path / "toy.yaml", result(), "")
