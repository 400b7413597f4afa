"""What every encoder must do; one added to ``ENCODERS`` is tested here at once, and models that
read padded sequences are."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders import (
    ENCODERS,
    Caser,
    ContrastiveEncoder,
    PaddedEncoder,
    SASRec,
)
from pdrec_fast.encoders.base import last_states
from pdrec_fast.ragged import ranges
from tests.encoders.padded_models import PADDED
from tests.rows import packed as packed_rows

N_ITEMS, MAX_LENGTH = 50, 8
# Elsewhere Caser sees nothing of what comes before its window.
MAKERS = ENCODERS | PADDED | {"caser": partial(Caser, window=MAX_LENGTH)}
ROWS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11], [12, 13, 14], list(range(20, 33)), [1, 2, 3]]


@pytest.fixture(params=sorted(MAKERS))
def encoder(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made = MAKERS[request.param](N_ITEMS, max_length=MAX_LENGTH)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.double().eval()


@pytest.fixture
def dropping(encoder: nn.Module) -> nn.Module:
    """The encoders of this package, which take their dropout from keys; others' is their own."""
    if isinstance(encoder, PaddedEncoder):
        pytest.skip("dropout is the padded model's own")
    return encoder


def packed(
    rows: list[list[int]], users: list[int] | None = None, seed: int | None = None
) -> PackedSequences:
    times = [-50.0 * np.arange(len(row))[::-1] ** 2 for row in rows]
    return packed_rows(rows, N_ITEMS, MAX_LENGTH, users=users, seed=seed, times=times)


def with_spares(batch: PackedSequences, lengths: list[int]) -> PackedSequences:
    """``batch`` and further sequences of these lengths, as where batches are padded."""
    spare = np.array(lengths)
    positions = torch.from_numpy(ranges(MAX_LENGTH - spare, spare))
    key, times = batch.dropout_key, batch.times
    assert key is not None
    assert times is not None
    return PackedSequences(
        torch.cat([batch.items, torch.full((spare.sum(),), 3)]),
        torch.cat([batch.indptr, batch.n_tokens + torch.from_numpy(np.cumsum(spare))]),
        torch.cat([batch.positions, positions]),
        np.concatenate([batch.host_lengths, spare]),
        np.concatenate([batch.sources, np.full(len(spare), -1)]),
        replace(key, users=torch.cat([key.users, torch.zeros(len(spare), dtype=torch.int64)])),
        torch.cat([times, torch.zeros(spare.sum(), dtype=times.dtype)]),
    )


def states_of(
    encoder: nn.Module,
    rows: list[list[int]],
    users: list[int] | None = None,
    seed: int | None = None,
) -> list[torch.Tensor]:
    """The states of every row's sequence, in the order of the rows."""
    batch = packed(rows, users, seed)
    parts = torch.split(encoder(batch), batch.lengths.tolist())
    return [parts[at] for at in np.argsort(batch.sources)]


def assert_close(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_follows_the_protocol(encoder: nn.Module) -> None:
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


@pytest.mark.parametrize("lengths", [[0, 0], [MAX_LENGTH, MAX_LENGTH, 3, 0], [0, 1, MAX_LENGTH]])
def test_spare_sequences_of_any_length_may_follow(encoder: nn.Module, lengths: list[int]) -> None:
    batch = packed(ROWS, seed=5)
    wide = with_spares(batch, lengths)
    for mode in (True, False):
        encoder.train(mode)
        states = encoder(wide)
        assert len(states) == wide.n_tokens
        assert_close(states[: batch.n_tokens], encoder(batch))


def test_dropout_acts_in_training_alone(dropping: nn.Module) -> None:
    encoder = dropping
    batch = packed(ROWS, seed=5)
    kept = encoder(batch)
    dropped = encoder.train()(batch)
    assert not torch.allclose(dropped, kept)
    encoder.dropout = 0.0
    for block in getattr(encoder, "blocks", ()):
        block.dropout = 0.0
    assert_close(encoder(batch), kept)


def test_a_users_dropout_is_the_same_in_every_batch(dropping: nn.Module) -> None:
    encoder = dropping
    encoder.train()
    users = [40, 41, 42, 43, 44, 45, 46]
    together = states_of(encoder, ROWS, users, seed=5)
    for row, user, states in zip(ROWS, users, together, strict=True):
        assert_close(states_of(encoder, [row], [user], seed=5)[0], states)
    assert not torch.allclose(together[0], together[6])  # the same items, another user
    assert not torch.allclose(together[0], states_of(encoder, ROWS, users, seed=6)[0])


def test_without_a_key_dropout_follows_torchs_generator(dropping: nn.Module) -> None:
    encoder = dropping
    encoder.train()
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append(encoder(packed(ROWS)))
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])


def test_every_parameter_learns(encoder: nn.Module) -> None:
    torch.manual_seed(1)
    batch = packed(ROWS, seed=2)
    states = encoder.train()(batch)
    loss = (states * torch.randn_like(states)).sum()
    if isinstance(encoder, ContrastiveEncoder):
        loss = loss + encoder.auxiliary_loss(encoder.augment(batch))
    loss.backward()
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


def test_last_states_are_those_of_all_tokens(encoder: nn.Module) -> None:
    batch = packed(ROWS)
    found = last_states(encoder, batch)
    assert_close(found, encoder(batch)[batch.last])
    single = last_states(encoder.float(), batch)
    torch.testing.assert_close(single.double(), found, rtol=1e-4, atol=1e-5)


def test_a_subclass_is_scored_by_its_own_forward() -> None:
    class Reversed(SASRec):
        def forward(self, batch: PackedSequences) -> torch.Tensor:
            return -super().forward(batch)

    encoder, batch = Reversed(N_ITEMS, max_length=MAX_LENGTH).eval(), packed(ROWS)
    assert torch.equal(last_states(encoder, batch), encoder(batch)[batch.last])


@pytest.mark.parametrize(
    "options", [{"blocks": 0}, {"blocks": 1, "heads": 4}, {"impl": "reference"}]
)
def test_last_states_of_sasrec_in_every_form(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    encoder = SASRec(N_ITEMS, max_length=MAX_LENGTH, **options)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = packed(ROWS, users=list(range(len(ROWS))), seed=3)
    with torch.no_grad():  # in training, with its dropout
        assert torch.equal(last_states(encoder, batch), encoder(batch)[batch.last])
        expected = encoder.eval()(batch)[batch.last]
    torch.testing.assert_close(last_states(encoder, batch), expected, rtol=1e-5, atol=1e-5)
    assert last_states(encoder, packed([])).shape == (0, 64)


@pytest.mark.parametrize("name", ["bert4rec", "diffurec", "diffrec-star", "hstu", "ligr", "sasrec"])
def test_positions_start_with_the_spread_of_scaled_items(name: str) -> None:
    options = {"positions": "items"} if name == "sasrec" else {}
    made: Any = ENCODERS[name](5_000, max_length=20, width=16, **options)
    items, positions = made.item_embedding.weight.std(), made.position_embedding.weight.std()
    torch.testing.assert_close(positions, 4 * items)
    if name == "sasrec":
        other = SASRec(5_000, max_length=20, width=16)
        assert other.position_embedding.weight.std() > 2 * positions
