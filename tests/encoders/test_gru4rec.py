"""GRU4Rec on packed sequences against ``torch.nn.GRU`` on every sequence alone."""

import numpy as np
import pytest
import torch
from torch import nn

from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders import GRU4Rec
from pdrec_fast.encoders.gru4rec import time_order
from pdrec_fast.operands import PackedDropout
from pdrec_fast.reference.packed.packed_dropout import packed_dropout
from tests import rows

N_ITEMS, WIDTH, MAX_LENGTH = 40, 6, 9


def packed(lengths: tuple[int, ...], seed: int | None = None) -> PackedSequences:
    return rows.packed(rows.random_rows(lengths, N_ITEMS), N_ITEMS, MAX_LENGTH, seed=seed)


def gru4rec(hidden: int, layers: int, dropout: float) -> GRU4Rec:
    torch.manual_seed(0)
    options = {"hidden": hidden, "layers": layers, "dropout": dropout, "max_length": MAX_LENGTH}
    model = GRU4Rec(N_ITEMS, width=WIDTH, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def one_by_one(model: GRU4Rec, batch: PackedSequences, dropout: float) -> torch.Tensor:
    x = model.item_embedding(batch.items) * WIDTH**0.5
    if dropout:
        key = batch.dropout_key
        words = PackedDropout(batch.indptr, key.users, dropout, key.seed, key.epoch, 16)
        x = packed_dropout(x, words)
    parts = []
    for part in x.split(batch.lengths.tolist()):
        states = part
        for layer in model.layers:
            states, _ = layer(states)
        parts.append(model.out(states))
    return torch.cat(parts)


@pytest.mark.parametrize("lengths", [(1,), (3, 3, 3), (5, 1, 9, 2, 5, 14, 9, 7)])
@pytest.mark.parametrize(("hidden", "layers"), [(WIDTH, 1), (10, 1), (5, 3)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_batch_does_not_matter_with_gradients(lengths, hidden, layers, dropout) -> None:
    model, batch = gru4rec(hidden, layers, dropout), packed(lengths, seed=11)
    states, expected = model(batch), one_by_one(model, batch, dropout)
    torch.testing.assert_close(states, expected, rtol=1e-10, atol=1e-12)
    direction = torch.randn_like(states)
    parameters = list(model.parameters())
    found, wanted = (
        torch.autograd.grad((y * direction).sum(), parameters) for y in (states, expected)
    )
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)


def test_states_are_mapped_back_only_where_widths_differ() -> None:
    assert isinstance(gru4rec(WIDTH, 1, 0.0).out, nn.Identity)
    assert gru4rec(10, 1, 0.0).out.weight.shape == (WIDTH, 10)


def test_at_least_one_layer() -> None:
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        GRU4Rec(N_ITEMS, layers=0)


def test_tokens_in_order_of_time() -> None:
    sizes, tokens, places = time_order(np.array([2, 0, 3, 1, 3]))
    assert sizes.tolist() == [4, 3, 2]
    # Sequences begin at the tokens 0, 2, 2, 5 and 6; the longest are the third and the last.
    assert tokens.tolist() == [2, 6, 0, 5, 3, 7, 1, 4, 8]
    assert places[tokens].tolist() == list(range(9))
    for part in time_order(np.array([], dtype=np.int64)):
        assert part.shape == (0,)
    assert time_order(np.array([0, 0]))[0].shape == (0,)


def test_order_of_time_is_torchs() -> None:
    lengths = np.array([7, 4, 4, 1])
    sequences = [torch.arange(n) + 10 * row for row, n in enumerate(lengths)]
    expected = nn.utils.rnn.pack_sequence(sequences)
    sizes, tokens, _ = time_order(lengths)
    assert sizes.tolist() == expected.batch_sizes.tolist()
    assert torch.cat(sequences)[tokens].tolist() == expected.data.tolist()
