"""No two uses of random numbers share any, for any number of users that is accepted.

A use takes a box of (stream, epoch, user) words: half-open intervals of exact integers. Its users
are ``first_user + u`` for u below the number of users n, so that boxes grow with n: those that are
apart for the largest n are apart for all.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pytest
import torch

from pdrec_fast import (
    DiffRec,
    Guidance,
    PDRec,
    Preferences,
    RunConfig,
    leave_one_out,
    random_keys,
    run,
    synthetic,
)
from pdrec_fast.build_info import extension
from pdrec_fast.errors import DataError
from pdrec_fast.training.batches import TrainingBatches

WORD = 1 << 32
TRAINING = (0, 1 << 31)
MOST_STEPS = (1 << 31) - 1

Interval = tuple[int, int]


class Use(NamedTuple):
    """The words of n users in every seed."""

    name: str
    streams: Interval
    epochs: Interval
    first_user: int = 0

    def box(self, n_users: int) -> tuple[Interval, Interval, Interval]:
        return self.streams, self.epochs, (self.first_user, self.first_user + n_users)


def one(number: int) -> Interval:
    return number, number + 1


ENCODER = (random_keys.ENCODER, WORD)
FORWARD, SAMPLING = random_keys.FORWARD_EPOCH, random_keys.SAMPLING_EPOCH
CODIGEM = (random_keys.codigem_noise_epoch(0, 0, 1), WORD)
USES = [
    Use("noise of training", one(random_keys.NOISE), TRAINING),
    Use("noise to start from", one(random_keys.NOISE), one(FORWARD)),
    # Step 0 takes none.
    Use("noise of steps", one(random_keys.NOISE), (SAMPLING + 1, SAMPLING + MOST_STEPS)),
    Use("noise of L-DiffRec", one(random_keys.NOISE), TRAINING, random_keys.MODEL_NOISE_USERS),
    Use("noise of CODIGEM", one(random_keys.NOISE), CODIGEM, random_keys.MODEL_NOISE_USERS),
    Use("dropout of the diffusion", one(random_keys.DROPOUT), TRAINING),
    Use("draws from pools", one(random_keys.NEGATIVES), TRAINING),
    Use("how views are made", one(random_keys.VIEWS), TRAINING),
    Use("dropout of inputs", ENCODER, TRAINING),
    Use("dropout of complete sequences", ENCODER, TRAINING, random_keys.COMPLETE_USERS),
]
VIEWS = [
    Use(f"dropout of view {number}", ENCODER, TRAINING, first)
    for number, first in enumerate(random_keys.VIEW_USERS, 1)
]


def overlapping(uses: list[Use], n_users: int) -> list[tuple[str, str]]:
    """The pairs whose boxes share a word: in every dimension, each begins before the other ends."""
    return [
        (a.name, b.name)
        for a, b in combinations(uses, 2)
        if all(
            first[0] < second[1] and second[0] < first[1]
            for first, second in zip(a.box(n_users), b.box(n_users), strict=True)
        )
    ]


@pytest.mark.parametrize(
    ("uses", "most"),
    [(USES, random_keys.MAX_USERS), (USES + VIEWS, random_keys.MAX_USERS_WITH_VIEWS)],
)
def test_no_two_uses_share_a_word(uses, most):
    assert overlapping(uses, most) == []
    for use in uses:  # and none leaves the 32 bits, where it would begin again at 0
        assert all(0 <= first < stop <= WORD for first, stop in use.box(most)), use.name


def test_the_limits_are_no_smaller_than_they_must_be():
    assert random_keys.MAX_USERS == 1 << 31
    assert set(overlapping(USES, random_keys.MAX_USERS + 1)) == {
        ("dropout of inputs", "dropout of complete sequences"),
        ("noise of training", "noise of L-DiffRec"),
        ("noise to start from", "noise of CODIGEM"),
        ("noise of steps", "noise of CODIGEM"),
    }
    crowded = overlapping(USES + VIEWS, random_keys.MAX_USERS_WITH_VIEWS + 1)
    assert ("dropout of inputs", "dropout of view 1") in crowded


def test_draws_of_one_model_are_numbered_apart():
    latent, codigem = random_keys.latent_noise_epoch, random_keys.codigem_noise_epoch
    assert {latent(epoch, draw) for epoch in range(9) for draw in (0, 1)} == set(range(18))
    steps = {codigem(epoch, step, 4) - CODIGEM[0] for epoch in range(9) for step in range(4)}
    assert steps == set(range(36))


def test_complete_sequences_are_other_users():
    train = leave_one_out(synthetic(n_users=40, n_items=150, seed=0)).train
    diffusion = DiffRec(hidden=(8,), epochs=1, lr=1e-3).fit(train, progress=False)
    preferences = Preferences.infer(diffusion, train, top_m=5, n_draws=8, progress=False)
    batches = TrainingBatches(Guidance(train, preferences, modules=("dpa",), max_length=20))
    rows = np.arange(batches.tokens.n_sequences)
    sequences = batches.batch(rows, batches.guidance.token_negatives(0), 0).sequences
    keys = np.sort(sequences.dropout_key.users.numpy())
    inputs = np.sort(batches.tokens.users)
    np.testing.assert_array_equal(keys, [*inputs, *(random_keys.COMPLETE_USERS + inputs)])


def test_windows_have_keys_of_their_own(monkeypatch):
    train = leave_one_out(synthetic(n_users=40, n_items=150, seed=0)).train
    diffusion = DiffRec(hidden=(8,), epochs=1, lr=1e-3).fit(train, progress=False)
    preferences = Preferences.infer(diffusion, train, top_m=5, n_draws=8, progress=False)
    guidance = Guidance(train, preferences, modules=("dpa",), max_length=3, windows=True)
    batches = TrainingBatches(guidance)
    tokens = batches.tokens
    assert not tokens.latest.all()
    rows = np.arange(tokens.n_sequences)
    sequences = batches.batch(rows, guidance.token_negatives(0), 0).sequences
    keys = sequences.dropout_key.users.numpy()
    assert len(np.unique(keys)) == len(keys)
    n_earlier = int((~tokens.latest).sum())
    latest = tokens.users[tokens.latest]
    wanted = [*latest, *range(40, 40 + n_earlier), *(random_keys.COMPLETE_USERS + latest)]
    np.testing.assert_array_equal(np.sort(keys), np.sort(wanted))
    monkeypatch.setattr(random_keys, "MAX_USERS", 39 + n_earlier)
    with pytest.raises(DataError, match=f"got {40 + n_earlier}"):
        TrainingBatches(guidance)


def test_more_users_than_keys_are_refused(monkeypatch):
    random_keys.check_users(random_keys.MAX_USERS, views=False)
    random_keys.check_users(random_keys.MAX_USERS_WITH_VIEWS, views=True)
    with pytest.raises(DataError, match="at most 2147483648 users, got 2147483649"):
        random_keys.check_users(random_keys.MAX_USERS + 1, views=False)
    with pytest.raises(DataError, match="views can be trained on at most 1073741824 users"):
        random_keys.check_users(random_keys.MAX_USERS_WITH_VIEWS + 1, views=True)
    monkeypatch.setattr(random_keys, "MAX_USERS_WITH_VIEWS", 39)
    split = leave_one_out(synthetic(n_users=40, n_items=150, seed=0))
    options = {"modules": (), "epochs": 1, "encoder_options": {"width": 8}}
    PDRec("sasrec", **options).fit(split, progress=False)
    with pytest.raises(DataError, match="at most 39 users, got 40"):
        PDRec("cl4srec", **options).fit(split, progress=False)
    with pytest.raises(DataError, match="at most 39 users, got 40"):  # before the diffusion trains
        run(split.data, RunConfig(encoder="cl4srec"), progress=False)


def test_negatives_and_their_offsets_share_no_block():
    def place(generator: np.random.Generator) -> tuple[list[int], int]:
        state = generator.bit_generator.state["state"]
        counter = sum(int(word) << 64 * at for at, word in enumerate(state["counter"]))
        return state["key"].tolist(), counter

    epochs = [place(random_keys.random_negatives(5, epoch)) for epoch in range(3)]
    assert epochs == [([5, epoch], 0) for epoch in range(3)]
    # 2**192 blocks lie between them, and as many before the counter comes round.
    assert place(random_keys.safe_negative_offsets(5)) == ([5, 0], 1 << 192)


def test_the_negatives_of_steps_share_no_block_with_others():
    state = random_keys.shared_negatives(5, 7, 3).bit_generator.state["state"]
    assert state["key"].tolist() == [5, 7]
    # A step may take 2**128 blocks; 2**192 are those of the epoch's own negatives (0) or of
    # offsets (1), these are the third.
    assert state["counter"].tolist() == [0, 0, 3, 2]
    places = [(1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3)]
    drawn = [random_keys.shared_negatives(*place).integers(1 << 40, size=4) for place in places]
    assert len({tuple(draws) for draws in drawn}) == len(places)


def test_seeds_below_2_to_32_differ_in_every_epoch():
    seeds = [
        random_keys.epoch_seed(seed, epoch)
        for seed in (0, 1, 7, 2**32 - 1)
        for epoch in (0, 1, 999)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    orders = [torch.randperm(20, generator=torch.Generator().manual_seed(s)) for s in seeds]
    assert len({tuple(order.tolist()) for order in orders}) == len(seeds)


@pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
def test_the_extension_has_the_same_streams():
    names = ("NOISE", "DROPOUT", "NEGATIVES", "VIEWS", "ENCODER")
    assert extension.random_streams == {name: getattr(random_keys, name) for name in names}
