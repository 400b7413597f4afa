"""Models that read padded ids; what every encoder must do is tested in the contract."""

from typing import Any

import pytest
import torch
from torch import nn

import pdrec_fast as pf
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders import PaddedEncoder
from tests.encoders.padded_models import PADDED, PaddedGRU
from tests.rows import packed as packed_rows


class Recorder(nn.Module):
    """States are the embeddings; keeps the ids that it was given."""

    def __init__(self, n_rows: int = 11) -> None:
        super().__init__()
        self.item_embedding = nn.Embedding(n_rows, 3)
        self.ids = torch.zeros(0)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.ids = ids
        return self.item_embedding(ids)


def batch_of(rows: list[list[int]], max_length: int = 4) -> PackedSequences:
    return packed_rows(rows, 10, max_length)


@pytest.mark.parametrize(
    ("side", "expected"),
    [("right", [[8, 1, 2], [6, 7, 0], [10, 0, 0]]),
     ("left", [[0, 8, 1, 2], [0, 0, 6, 7], [0, 0, 0, 10]])],
)  # fmt: skip
def test_ids_count_from_one_and_padding_is_zero(side: Any, expected: list[list[int]]) -> None:
    model = Recorder()
    encoder = PaddedEncoder(model, 4, side=side)
    batch = batch_of([[5, 6], [9], [7, 0, 1]])
    states = encoder(batch)
    assert model.ids.tolist() == expected
    assert torch.equal(states, encoder.item_embedding(batch.items))


def test_the_models_weights_are_kept_and_padding_embeds_as_zeros() -> None:
    model = Recorder()
    before = model.item_embedding.weight.detach().clone()
    encoder = PaddedEncoder(model, 4)
    assert encoder.item_embedding.weight.shape == (10, 3)
    assert torch.equal(encoder.item_embedding.weight, before[1:])
    found = model(torch.tensor([[0, 1, 10]]))[0]
    assert not found[0].any()
    assert torch.equal(found[1:], before[[1, 10]])
    assert torch.equal(model.item_embedding.weight[1:], before[1:])
    assert not model.item_embedding.weight[0].any()
    assert [name for name, _ in encoder.named_parameters()] == [
        "module.item_embedding.items.weight"
    ]


def test_gradients_reach_the_table_through_lookups_and_weight() -> None:
    encoder = PaddedEncoder(Recorder(), 4)
    encoder(batch_of([[1, 2], [2]])).sum().backward()
    grad = encoder.item_embedding.weight.grad
    assert grad is not None
    assert grad.sum(1).tolist() == [0, 3, 6, 0, 0, 0, 0, 0, 0, 0]
    encoder.module.item_embedding.weight.sum().backward()
    assert grad.sum(1).tolist() == [3, 6, 9, 3, 3, 3, 3, 3, 3, 3]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"side='up': choose one of \('left', 'right'\)"):
        PaddedEncoder(Recorder(), 4, side="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        PaddedEncoder(Recorder(), 0)
    with pytest.raises(ValueError, match=r"Recorder has no nn.Embedding named 'items'.*\['item_em"):
        PaddedEncoder(Recorder(), 4, embedding="items")


def test_shared_weights_are_refused() -> None:
    model = Recorder()
    model.out = nn.Linear(3, 11)
    model.out.weight = model.item_embedding.weight
    with pytest.raises(ValueError, match=r"out\.weight shares the weights of item_embedding"):
        PaddedEncoder(model, 4)


def test_a_model_of_last_states_alone_is_refused() -> None:
    class Last(PaddedGRU):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids)[:, -1]

    encoder = PaddedEncoder(Last(11), 4)
    with pytest.raises(ValueError, match=r"Last gave shape \[2, 6\] .* \[2, 3, 6\]"):
        encoder(batch_of([[5, 6], [7, 0, 1]]))


@pytest.mark.parametrize("kind", sorted(PADDED))
def test_is_trained_saved_and_loaded(kind: str, tmp_path: Any) -> None:
    split = pf.leave_one_out(pf.synthetic(n_users=60, n_items=150, seed=1))

    def mine(n_items: int) -> nn.Module:
        return PADDED[kind](n_items, max_length=12)

    scorer = pf.DiffRec(hidden=(8,), epochs=2, lr=1e-3).fit(split, progress=False)
    preferences = pf.Preferences.infer(scorer, split.train, n_draws=8, top_m=5, progress=False)
    model = pf.PDRec(mine, epochs=3, lr=0.01).fit(split, preferences, progress=False)
    assert model.name == "mine+hbr+dpa+nns"
    assert model.history.losses[-1] < model.history.losses[0]
    model.save(tmp_path / "model")
    loaded = pf.PDRec.load(tmp_path / "model", encoder=mine)
    assert torch.equal(loaded.scores(split.test.histories), model.scores(split.test.histories))
