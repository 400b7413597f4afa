"""PDRec's parts for a loop of one's own: what ``PDRec`` itself trains with, by user and item."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pdrec_fast.data import Interactions, synthetic
from pdrec_fast.errors import DataError
from pdrec_fast.preferences import Preferences
from pdrec_fast.ragged import row_indices
from pdrec_fast.training import Guidance, PDRecConfig
from pdrec_fast.training.batches import TrainingBatches

CONFIG = PDRecConfig(random_negatives=2, safe_negatives=3, batch_size=17, seed=5)
MAX_LENGTH = 12


class TableScorer:
    def __init__(self, train: Interactions) -> None:
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(train.n_users, train.n_items, generator=generator)

    def scores(self, histories: Any, items: Any = None) -> torch.Tensor:
        return self.table[torch.from_numpy(histories.users)]


def preferences_of(train: Interactions) -> Preferences:
    return Preferences.infer(TableScorer(train), train, top_m=7, n_draws=64, progress=False)


@pytest.fixture(scope="module")
def train() -> Interactions:
    data = synthetic(n_users=50, n_items=140, seed=2)
    # Each item once for every user, so that positives can be told apart by their ids.
    return Interactions.from_arrays(
        data.user_ids[data.record_users], data.items, data.timestamps, repeats="first"
    )


@pytest.fixture(scope="module")
def preferences(train: Interactions) -> Preferences:
    return preferences_of(train)


@pytest.fixture(scope="module")
def guidance(train: Interactions, preferences: Preferences) -> Guidance:
    return Guidance(train, preferences, CONFIG, max_length=MAX_LENGTH)


@pytest.mark.parametrize("epoch", [0, 3])
def test_is_what_pdrec_trains_with(
    train: Interactions, preferences: Preferences, guidance: Guidance, epoch: int
) -> None:
    batches = TrainingBatches(Guidance(train, preferences, CONFIG, max_length=MAX_LENGTH))
    order = np.random.default_rng(0).permutation(batches.tokens.n_sequences)
    start = 0
    for batch in batches.epoch(order, epoch):
        rows = order[start : start + len(batch.last)]
        start += len(rows)
        sources = batch.sequences.sources
        inputs = sources[sources < len(rows)]
        users = batches.tokens.users[rows[inputs]]
        users = np.repeat(users, batches.tokens.lengths[rows[inputs]])
        positives = batch.candidates[:, 0]
        assert torch.equal(guidance.weights(users, positives), batch.weights)
        assert torch.equal(guidance.negatives(users, positives, epoch), batch.candidates[:, 1:])
        complete = sources[sources >= len(rows)] - len(rows)
        of = batches.tokens.users[rows[complete]]
        assert torch.equal(guidance.soft_positives(of), batch.soft_positives)


def padded(train: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Users with their next items [B, L], -1 after."""
    users = np.flatnonzero(np.diff(train.indptr) >= 2)
    items = np.full((len(users), MAX_LENGTH), -1)
    for row, user in enumerate(users):
        latest = train.items[train.indptr[user] + 1 : train.indptr[user + 1]][-MAX_LENGTH:]
        items[row, : len(latest)] = latest
    return users, items


def test_sequences_are_their_positives(train: Interactions, guidance: Guidance) -> None:
    users, items = padded(train)
    weights, negatives = guidance.weights(users, items), guidance.negatives(users, items, 1)
    assert weights.shape == items.shape
    assert negatives.shape == (*items.shape, 5)
    rows, places = np.nonzero(items >= 0)
    flat = users[rows], items[rows, places]
    assert torch.equal(weights[rows, places], guidance.weights(*flat))
    assert torch.equal(negatives[rows, places], guidance.negatives(*flat, 1))
    assert not weights[items < 0].any()
    assert not negatives[items < 0].any()


def test_negatives_are_new_in_every_epoch_and_never_observed(
    train: Interactions, guidance: Guidance
) -> None:
    users, items = padded(train)
    first = guidance.negatives(users, items, 0)
    assert not torch.equal(first, guidance.negatives(users, items, 1))
    assert torch.equal(first, guidance.negatives(users, items, 0))
    observed = set(zip(row_indices(train.indptr).tolist(), train.items.tolist(), strict=True))
    drawn = first[torch.from_numpy(items >= 0)]
    owners = np.broadcast_to(users[:, None], items.shape)[items >= 0]
    assert not observed & {(u, n) for u, of in zip(owners, drawn.tolist(), strict=True) for n in of}


def test_what_is_given_may_be_tensors_arrays_or_lists(
    train: Interactions, guidance: Guidance
) -> None:
    users, items = padded(train)
    wanted = guidance.weights(users, items)
    tensors = torch.from_numpy(users), torch.from_numpy(items).int()
    assert torch.equal(guidance.weights(*tensors), wanted)
    assert torch.equal(guidance.weights(users.tolist(), items.tolist()), wanted)
    assert guidance.weights(users[:0], items[:0]).shape == (0, MAX_LENGTH)
    assert guidance.weights([], []).shape == (0,)
    assert torch.equal(guidance.soft_positives(tensors[0]), guidance.soft_positives(users))
    strided = np.stack([items, items], axis=2)[..., 0]
    assert torch.equal(guidance.weights(users[::-1], strided[::-1]), wanted.flip(0))


def test_by_hand() -> None:
    """One user: 3, then 1 and 2, of which 2 is preferred; then 1 again."""
    train = Interactions.from_arrays([0] * 4 + [1] * 2, [3, 1, 2, 1, 0, 4], [1, 2, 3, 4, 1, 2])

    class Source:
        def scores(self, histories: Any, items: Any = None) -> torch.Tensor:
            return torch.tensor([[0.0, 0.2, 0.8, 0.5, 0.1]]).repeat(len(histories), 1)

    preferences = Preferences.infer(Source(), train, top_m=2, n_draws=4, progress=False)
    settings = {"hbr_rank_weight": 0.4, "hbr_clip": 1.5, "hbr_rescale": 2.0}
    guidance = Guidance(train, preferences, dpa_top_n=1, **settings)
    # norm(o) = 0, 1, 0 of mean 1/3, so 0, 3, 0; ranks 2, 1, 3 of 3: 2/3, 1, 1/3. w = .6 * 3 + .4
    # = 2.2, clipped to 1.5; the later 1 has .4 / 3.
    weights = guidance.weights([0, 0, 1], [2, 1, 4])
    torch.testing.assert_close(weights, torch.tensor([3.0, 2 * 0.4 / 3, 2.0]))
    assert guidance.soft_positives([0, 1]).tolist() == [[4, 0], [2, 3]]
    with pytest.raises(DataError, match=r"item 3 is none that user 0 is trained on: .* latest 4"):
        guidance.weights([0], [3])
    # Read two of three next items: the first 1 is no positive, nor does it count for the others.
    short = Guidance(train, preferences, dpa_top_n=1, max_length=2, **settings)
    torch.testing.assert_close(short.weights([0], [1]), torch.tensor([2 * 0.4 / 2]))


def test_without_modules(train: Interactions, preferences: Preferences) -> None:
    users, items = padded(train)
    plain = Guidance(train, modules=(), random_negatives=4)
    assert plain.weights(users, items).unique().tolist() == [0.0, 1.0]
    assert plain.negatives(users, items, 0).shape == (*items.shape, 4)
    with pytest.raises(ValueError, match=r"modules \(\) have no 'dpa'"):
        plain.soft_positives(users)
    hbr = Guidance(train, preferences, modules=("hbr",))
    assert hbr.negatives(users, items, 0).shape == (*items.shape, 1)


def test_soft_positives_go_by_their_former_name_too(guidance: Guidance) -> None:
    with pytest.warns(DeprecationWarning, match="called soft_positives"):
        found = guidance.candidates([3, 1])
    assert torch.equal(found, guidance.soft_positives([3, 1]))


def test_other_preferences_are_refused(train: Interactions, preferences: Preferences) -> None:
    with pytest.raises(ValueError, match="need preferences"):
        Guidance(train)
    with pytest.raises(ValueError, match="inferred on other interactions"):
        Guidance(train, replace(preferences, data="0" * 16))
    with pytest.raises(ValueError, match="dpa_top_n=8 is more than the preferences' top_m=7"):
        Guidance(train, preferences, dpa_top_n=8)
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        Guidance(train, preferences, max_length=0)


def test_wrong_batches_are_named(train: Interactions, guidance: Guidance) -> None:
    item = int(train.items[train.indptr[1] - 1])
    with pytest.raises(ValueError, match=r"indices in 0 \.\. 49, got shape \[2\] from 0 to 50"):
        guidance.weights([0, 50], [item, item])
    with pytest.raises(ValueError, match=r"got shape \[1, 1\] from 3 to 3"):
        guidance.soft_positives([[3]])
    with pytest.raises(ValueError, match=r"for the B = 1 users, got shape \[2\]"):
        guidance.weights([0], [item, item])
    with pytest.raises(ValueError, match=f"items must lie below {train.n_items}, got 9999"):
        guidance.weights([0], [9999])
    with pytest.raises(ValueError, match=r"integer indices, got <U1; train.user_index"):
        guidance.weights(np.array(["a"]), [item])
    with pytest.raises(ValueError, match="epoch must not be negative, got -1"):
        guidance.negatives([0], [item], -1)
    user = int(train.user_ids[0])
    first = train.items[train.indptr[0]]
    message = rf"item {train.item_ids[first]} is none that user {user} is trained on: .* latest 12"
    with pytest.raises(DataError, match=message):
        guidance.negatives([0], [first], 0)
