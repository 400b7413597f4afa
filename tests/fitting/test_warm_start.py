"""Weights for a catalogue that has changed."""

import numpy as np
import pytest
import torch

from pdrec_fast.fitting.warm_start import (
    former_rows,
    tell_dropped,
    warm_weights,
    weights_fingerprint,
)


def test_items_are_found_by_their_raw_id(caplog):
    grown, former = np.array([4, 7, 9]), np.array([7, 4])
    assert former_rows(grown, former).tolist() == [1, 0, -1]
    tell_dropped(np.array([1, 0, -1]), 2)
    assert not caplog.text
    # One id that is no integer makes text of a whole column.
    as_text = np.array(["4", "7", "x"], dtype=object)
    assert former_rows(as_text, former).tolist() == [1, 0, -1]
    rows = former_rows(np.array([4]), np.array([7, 4]))
    assert rows.tolist() == [1]
    tell_dropped(rows, 2)
    assert "1 of 2 items are not in the new data" in caplog.text
    with pytest.raises(ValueError, match=r"none of 1 items \(such as 'a'\) is among the 2 of"):
        former_rows(np.array(["a"], dtype=object), former)


def test_known_rows_are_kept_and_new_ones_fresh():
    former = {"table": torch.tensor([[1.0], [2.0]]), "bias": torch.tensor([5.0])}
    fresh = {"table": torch.tensor([[-1.0], [-2.0], [-3.0]]), "bias": torch.tensor([0.0])}
    found = warm_weights(fresh, former, np.array([1, -1, 0]), {"table"})
    assert found["table"].tolist() == [[2.0], [-2.0], [1.0]]
    assert found["bias"].tolist() == [5.0]
    assert fresh["table"].tolist() == [[-1.0], [-2.0], [-3.0]]


def test_models_of_other_shapes_are_refused():
    former, rows = {"table": torch.zeros(2, 4)}, np.array([0, 1, -1])
    with pytest.raises(ValueError, match=r"table is \[2, 4\] in the model to start .* \[3, 8\]"):
        warm_weights({"table": torch.zeros(3, 8)}, former, rows, {"table"})
    # With a row for padding too, nobody knows which rows are the items'.
    with pytest.raises(ValueError, match=r"table is \[2, 4\] .* exactly one row"):
        warm_weights({"table": torch.zeros(4, 4)}, former, rows, {"table"})
    with pytest.raises(ValueError, match="of another kind, norm is in only one"):
        warm_weights({"table": torch.zeros(3, 4), "norm": torch.ones(1)}, former, rows, {"table"})


def test_a_fingerprint_changes_with_any_weight_and_with_the_settings():
    some = {"a": torch.zeros(2), "b": torch.tensor(1.0)}
    others = [{**some, "b": torch.tensor(2.0)}, {"c": some["a"], "b": some["b"]}]
    prints = [weights_fingerprint(each) for each in (some, *others)]
    assert len({*prints, weights_fingerprint(some, "x")}) == 4
    assert weights_fingerprint(dict(some)) == prints[0]
