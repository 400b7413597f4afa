"""Popularity as a scorer, and its ranks without scores of every case."""

import numpy as np
import pytest
import torch

from pdrec_fast.data import Interactions, leave_one_out, mix_domains
from pdrec_fast.errors import NotFittedError
from pdrec_fast.evaluation import Evaluator, Popularity
from pdrec_fast.preferences import Preferences
from tests.evaluation.cases import TableScorer, make_data


def table_of(split):
    counts = np.zeros(split.data.n_items)
    for item in split.train.items:
        counts[item] += 1
    return counts, TableScorer(np.tile(counts, (split.data.n_users, 1)))


def two_domains():
    rng = np.random.default_rng(0)
    domains = []
    for n_items in (180, 90):
        users = np.repeat(np.arange(40), rng.integers(4, 15, 40))
        items = np.concatenate([np.arange(n_items), rng.integers(0, n_items, len(users))])
        users = np.concatenate([rng.integers(0, 40, n_items), users])
        domains.append(Interactions.from_arrays(users, items, rng.permutation(len(users))))
    return leave_one_out(mix_domains(*domains))


def test_scores_are_counts_of_the_training_records(split):
    counts, _ = table_of(split)
    histories, popularity = split.test.histories[:3], Popularity(split.train)
    assert popularity.scores(histories).tolist() == [counts.tolist()] * 3
    items = torch.tensor([[0, 5], [7, 7], [2, 1]])
    assert popularity.scores(histories, items).tolist() == counts[items.numpy()].tolist()


@pytest.mark.parametrize("make", [lambda: leave_one_out(make_data()), two_domains])
@pytest.mark.parametrize("protocol", ["paper", "full"])
@pytest.mark.parametrize("on", ["valid", "test"])
def test_ranks_are_those_of_a_table_of_counts(make, protocol, on):
    split = make()
    found, wanted = (
        Evaluator(split).ranks(scorer, protocol, on)
        for scorer in (Popularity(split.train), table_of(split)[1])
    )
    for name in ("greater", "equal", "candidates"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name


def test_blocks_do_not_change_the_ranks(split, monkeypatch):
    whole = Evaluator(split).ranks(Popularity(split.train), "full", "test")
    monkeypatch.setattr("pdrec_fast.evaluation.scoring._CASES_PER_GPU_BLOCK", 7)
    parts = Evaluator(split).ranks(Popularity(split.train), "full", "test")
    assert np.array_equal(whole.greater, parts.greater)
    assert np.array_equal(whole.candidates, parts.candidates)


def test_it_can_guide(split):
    popularity = Popularity(split.train)
    found = Preferences.infer(popularity, split.train, top_m=3, n_draws=4, progress=False)
    assert found.data == popularity.trained_on


def test_another_catalogue_is_refused(split):
    other = leave_one_out(make_data(n_items=120))
    with pytest.raises(ValueError, match="over 120 items"):
        Popularity(split.train).scores(other.test.histories)


def test_it_comes_back_from_disk(split, tmp_path):
    with pytest.raises(NotFittedError):
        Popularity().save(tmp_path / "counts")
    fitted = Popularity().fit(split)
    fitted.save(tmp_path / "counts")
    again = Popularity.load(tmp_path / "counts")
    assert again.trained_on == Popularity(split.train).trained_on
    assert np.array_equal(again.item_scores, table_of(split)[0])
