"""Reading a study's files: what is refused, and how several directories become one."""

import json
import math

import pytest

from pdrec_fast.errors import DataError
from pdrec_fast.studies.load import load_studies
from pdrec_fast.studies.variants import DataSet, Variant
from tests.studies.study_files import GUIDED, PLAIN, value_of, write_study

TOY = DataSet("toy", "toy")


def variant(of, data_set=TOY):
    return Variant(*data_set, *of)


def test_rows_have_their_types(tmp_path):
    studies = load_studies([write_study(tmp_path / "a", seeds=(0,))])
    assert studies.data_sets == [TOY]
    assert studies.protocols == ["paper"]
    assert studies.values(variant(PLAIN), "paper", "auc").to_dict() == {
        0: value_of(PLAIN, 0, "auc")
    }
    assert studies.values(variant(PLAIN), "other", "auc").empty
    assert studies.comparison(variant(PLAIN), "paper", "auc") is None
    assert studies.comparison(variant(GUIDED), "paper", "auc").gain_percent == 7.25
    epochs = studies.rows("curves", TOY).query("model == 'sasrec' and modules == 'none'")
    assert epochs["epoch"].tolist() == [1, 2, 3, 4]
    assert math.isnan(epochs["valid"].iloc[1])
    assert studies.items(TOY) == 150
    assert studies.items(DataSet("toy", "other")) is None


def test_a_directory_without_a_study(tmp_path):
    with pytest.raises(DataError, match=r"no study is here \(study.json not found\)"):
        load_studies([tmp_path])


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_study_json(text, tmp_path):
    folder = write_study(tmp_path / "a")
    (folder / "study.json").write_text(text)
    with pytest.raises(DataError, match=r"study.json: not .*JSON.*; give the study's command"):
        load_studies([folder])


def test_a_bad_number_is_named_with_its_place(tmp_path):
    folder = write_study(tmp_path / "a")
    lines = (folder / "ranks.csv").read_text().splitlines()
    lines[2] = lines[2].replace("100", "many")
    (folder / "ranks.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"ranks.csv, line 3, column rank_to: 'many' is no number"):
        load_studies([folder])


def test_a_missing_column_is_named(tmp_path):
    folder = write_study(tmp_path / "a")
    text = (folder / "curves.csv").read_text().replace("valid", "other", 1)
    (folder / "curves.csv").write_text(text)
    with pytest.raises(DataError, match=r"curves.csv: no column valid"):
        load_studies([folder])


@pytest.mark.parametrize("twice", [False, True])
def test_no_directory_or_the_same_twice(twice, tmp_path):
    folders = [write_study(tmp_path / "a"), tmp_path / "a"] if twice else []
    with pytest.raises(ValueError, match="each given once"):
        load_studies(folders)


def test_a_variant_comes_from_the_directory_with_most_seeds(tmp_path):
    few = write_study(tmp_path / "few", seeds=(0,), shift=0.5)
    more = write_study(tmp_path / "more", seeds=(0, 1), variants=[PLAIN])
    for order in ([few, more], [more, few]):
        studies = load_studies(order)
        assert studies.values(variant(PLAIN), "paper", "ndcg@10").to_dict() == {
            seed: value_of(PLAIN, seed) for seed in (0, 1)
        }
        guided = studies.values(variant(GUIDED), "paper", "ndcg@10")
        assert guided.to_dict() == {0: 0.5 + value_of(GUIDED, 0)}
        assert studies.tables["ranks"]["seed"].nunique() == 2


def test_values_that_differ_are_said_to_and_equal_ones_not(tmp_path):
    first, same = write_study(tmp_path / "a"), write_study(tmp_path / "b")
    other = write_study(tmp_path / "c", variants=[PLAIN], shift=0.25)
    assert load_studies([first, same]).notes == []
    studies = load_studies([first, other])
    # Three seeds, ten metrics on test.
    assert studies.notes[0].startswith("30 results stand in both a and c with different values")
    assert "(by up to 0.25)" in studies.notes[0]
    assert studies.values(variant(PLAIN), "paper", "ndcg@10")[0] == value_of(PLAIN, 0)


def test_other_settings_and_other_data_are_refused(tmp_path):
    first = write_study(tmp_path / "a")
    second = write_study(tmp_path / "b", settings=["pdrec.epochs=1"])
    with pytest.raises(DataError, match=r"ran toy with different settings \(none; pdrec.epochs=1"):
        load_studies([first, second])
    study = json.loads((first / "study.json").read_text())
    study["data"][0]["fingerprint"] = "another"
    third = write_study(tmp_path / "c")
    (third / "study.json").write_text(json.dumps(study))
    with pytest.raises(DataError, match="ran toy on different data: make a report of each"):
        load_studies([first, third])
