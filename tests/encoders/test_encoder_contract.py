"""What every encoder must do; one added to ``ENCODERS`` is tested here at once, and models that
read padded sequences are."""

import numpy as np
import pytest
import torch
from torch import nn

from pdrec_fast.data import Histories
from pdrec_fast.data.sequences import PackedSequences, pack
from pdrec_fast.encoders import ENCODERS, SequenceEncoder
from tests.encoders.padded_models import PADDED

MAKERS = ENCODERS | PADDED
N_ITEMS, MAX_LENGTH = 50, 8
ROWS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11], [12, 13, 14], list(range(20, 33)), [1, 2, 3]]


@pytest.fixture(params=sorted(MAKERS))
def encoder(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made = MAKERS[request.param](N_ITEMS, max_length=MAX_LENGTH)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.double().eval()


def packed(rows: list[list[int]]) -> PackedSequences:
    stops = np.cumsum([len(row) for row in rows]).astype(np.int64)
    starts = stops - np.array([len(row) for row in rows], dtype=np.int64)
    items = np.array([item for row in rows for item in row], dtype=np.int32)
    histories = Histories(items, None, np.arange(len(rows)), starts, stops, N_ITEMS)
    return pack(histories, MAX_LENGTH)


def states_of(encoder: nn.Module, rows: list[list[int]]) -> list[torch.Tensor]:
    """The states of every row's sequence, in the order of the rows."""
    batch = packed(rows)
    parts = torch.split(encoder(batch), batch.lengths.tolist())
    return [parts[at] for at in np.argsort(batch.sources)]


def assert_close(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_follows_the_protocol(encoder: nn.Module) -> None:
    assert isinstance(encoder, SequenceEncoder)
    assert encoder.max_length == MAX_LENGTH
    assert encoder.item_embedding.num_embeddings == N_ITEMS


def test_one_state_per_token_of_the_embeddings_width(encoder: nn.Module) -> None:
    batch = packed(ROWS)
    states = encoder(batch)
    assert states.shape == (batch.n_tokens, encoder.item_embedding.embedding_dim)
    assert states.isfinite().all()


def test_sequences_do_not_see_each_other(encoder: nn.Module) -> None:
    together = states_of(encoder, ROWS)
    for row, states in zip(ROWS, together, strict=True):
        assert_close(states, states_of(encoder, [row])[0])
    assert_close(together[0], together[6])


def test_the_order_of_the_batch_does_not_matter(encoder: nn.Module) -> None:
    order = [3, 6, 0, 5, 2, 4, 1]
    shuffled = states_of(encoder, [ROWS[row] for row in order])
    straight = states_of(encoder, ROWS)
    for place, row in enumerate(order):
        assert_close(shuffled[place], straight[row])


@pytest.mark.parametrize("changed", range(6))
def test_no_state_depends_on_a_later_item(encoder: nn.Module, changed: int) -> None:
    row = list(ROWS[2])
    before = states_of(encoder, [row])[0]
    row[changed] = 40
    after = states_of(encoder, [row])[0]
    assert_close(after[:changed], before[:changed])
    assert ((after[changed:] - before[changed:]).abs().amax(dim=1) > 1e-8).all()


def test_only_the_latest_items_are_read(encoder: nn.Module) -> None:
    long = ROWS[5]
    assert_close(states_of(encoder, [long])[0], states_of(encoder, [long[-MAX_LENGTH:]])[0])


def test_an_empty_batch(encoder: nn.Module) -> None:
    assert encoder(packed([])).shape == (0, encoder.item_embedding.embedding_dim)


def test_evaluation_is_deterministic(encoder: nn.Module) -> None:
    batch = packed(ROWS)
    assert torch.equal(encoder(batch), encoder(batch))


def test_every_parameter_learns(encoder: nn.Module) -> None:
    torch.manual_seed(1)
    states = encoder.train()(packed(ROWS))
    (states * torch.randn_like(states)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_the_same_seed_makes_the_same_encoder() -> None:
    for make in MAKERS.values():
        made = []
        for _ in range(2):
            torch.manual_seed(3)
            made.append(make(N_ITEMS, max_length=MAX_LENGTH).state_dict())
        assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
