import json

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from pdrec_fast.data import Interactions, mix_domains
from pdrec_fast.data.storage import interactions_from_tensors, interactions_to_tensors


def through_files(data: Interactions) -> Interactions:
    tensors, ids = interactions_to_tensors(data)
    return interactions_from_tensors(load(save(tensors)), json.loads(json.dumps(ids)))


@pytest.mark.parametrize("timestamps", [None, [3.5, 1.0, 2.0, 2.0]])
@pytest.mark.parametrize(
    ("users", "items"),
    [
        ([10, 20, 20, 10], [7, 8, 7, 9]),
        (["anna", "ß", "ß", "anna"], ["x", "y", "x", "007"]),
        ([1, 2, 2, 1], ["a", "b", "a", "c"]),
    ],
)
@pytest.mark.filterwarnings("ignore:no timestamps")
def test_round_trip_through_safetensors_and_json(
    users: list[int] | list[str], items: list[int] | list[str], timestamps: list[float] | None
) -> None:
    data = Interactions.from_arrays(users, items, timestamps)
    back = through_files(data)
    assert back.fingerprint() == data.fingerprint()
    for name in ("indptr", "items", "timestamps", "user_ids", "item_ids"):
        before, after = getattr(data, name), getattr(back, name)
        assert (before is None) == (after is None)
        if before is not None:
            np.testing.assert_array_equal(before, after)
            assert before.dtype == after.dtype
    assert back.target_items is None
    assert back.user_index(users).tolist() == data.user_index(users).tolist()


def test_users_and_items_without_records_are_kept() -> None:
    data = Interactions(
        indptr=np.array([0, 0, 2, 2]),
        items=np.array([3, 1]),
        timestamps=np.array([1.0, 2.0]),
        user_ids=np.array(["a", "b", "c"], dtype=object),
        item_ids=np.arange(5),
    )
    back = through_files(data)
    assert (back.n_users, back.n_items, back.n_records) == (3, 5, 2)
    assert back.fingerprint() == data.fingerprint()


def test_tensors_are_copies() -> None:
    data = Interactions.from_arrays([1, 1, 2], [5, 6, 5], [1.0, 2.0, 1.0])
    tensors, _ = interactions_to_tensors(data)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "indptr": torch.int64,
        "items": torch.int32,
        "timestamps": torch.float64,
    }
    tensors["items"].fill_(-1)
    assert data.items.min() >= 0


def test_the_domains_of_items_survive() -> None:
    target = Interactions.from_arrays([1, 1, 2], [5, 6, 5], [1, 3, 2])
    data = mix_domains(target, Interactions.from_arrays([1, 3], [5, 7], [2, 1]))
    back = through_files(data)
    assert back.fingerprint() == data.fingerprint()
    assert back.target_items is not None
    assert back.target_items.tolist() == [True, True, False, False]
