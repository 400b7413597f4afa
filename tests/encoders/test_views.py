"""Crop, mask and reorder: what may change, how much, and how often."""

from itertools import permutations

import numpy as np
import pytest
import torch

from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders.views import CROP, MASK, REORDER, Augmentation, _masked, _shuffled
from pdrec_fast.random_keys import COMPLETE_USERS, VIEW_USERS, VIEWS
from pdrec_fast.reference.counter_rng import words
from tests.rows import packed as packed_rows

N_ITEMS, MAX_LENGTH = 1000, 12


def packed(rows: list[list[int]], users=None, seed: int | None = 3, epoch=0) -> PackedSequences:
    return packed_rows(rows, N_ITEMS, MAX_LENGTH, users=users, seed=seed, epoch=epoch)


def views_of(sequences: PackedSequences, **ratios: float) -> PackedSequences:
    return Augmentation(**ratios).views(sequences, MAX_LENGTH, N_ITEMS)


def pairs(sequences: PackedSequences, views: PackedSequences) -> list[tuple[list, list, list]]:
    """(sequence, first view, second view) of every sequence."""
    originals = [x.tolist() for x in sequences.items.split(sequences.lengths.tolist())]
    parts = [x.tolist() for x in views.items.split(views.lengths.tolist())]
    ordered = [parts[at] for at in np.argsort(views.sources)]
    n = len(originals)
    return list(zip(originals, ordered[:n], ordered[n:], strict=True))


def kind_of(sequence: list, view: list) -> int:
    """Which augmentation made a view of a long sequence of distinct items."""
    if len(view) < len(sequence):
        return CROP
    return MASK if N_ITEMS in view else REORDER


def long_rows(n: int, length: int = 10) -> list[list[int]]:
    return [list(range(50, 50 + length)) for _ in range(n)]


def documented(sequence: list[int], user: int, kind: int, seed=3, epoch=0, ratios=(0.6, 0.3, 0.6)):
    """One view straight from the documentation of ``Augmentation.views``."""
    n = len(sequence)
    word = words(seed, epoch, np.array([user]), 3 + 2 * n, VIEWS)[0].tolist()
    keys, last = word[3 : 3 + n], word[3 + n :]
    if kind == CROP:
        kept = max(int(ratios[0] * n), 1)
        start = word[1] * (n - kept + 1) >> 32
        return sequence[start : start + kept]
    if kind == MASK:
        smallest = sorted(range(n), key=lambda place: keys[place])[: int(ratios[1] * n)]
        return [N_ITEMS if place in smallest else item for place, item in enumerate(sequence)]
    shuffled = int(ratios[2] * n)
    start = word[2] * (n - shuffled + 1) >> 32
    part = range(start, start + shuffled)
    order = sorted(part, key=lambda place: last[place])
    return sequence[:start] + [sequence[at] for at in order] + sequence[start + shuffled :]


@pytest.mark.parametrize("ratios", [(0.6, 0.3, 0.6), (0.25, 0.5, 1.0), (1.0, 1.0, 0.0)])
@pytest.mark.parametrize(("seed", "epoch"), [(3, 0), (2**32 - 1, 7)])
def test_views_are_the_documented_ones(seed, epoch, ratios) -> None:
    rng = np.random.default_rng(1)
    rows = [rng.integers(N_ITEMS, size=n).tolist() for n in (5, 1, 12, 2, 9, 3, 30, 12, 4)]
    users = np.arange(len(rows)) * 7
    sequences = packed(rows, users, seed, epoch)
    views = views_of(sequences, **dict(zip(("crop", "mask", "reorder"), ratios, strict=True)))
    choices = list(permutations((CROP, MASK, REORDER), 2))
    for row, (sequence, *found) in enumerate(pairs(sequences, views)):
        user = int(users[sequences.sources[row]])
        word = int(words(seed, epoch, np.array([user]), 1, VIEWS)[0, 0])
        chosen = choices[word * 6 >> 32]
        assert found == [documented(sequence, user, k, seed, epoch, ratios) for k in chosen]


def test_masks_by_hand() -> None:
    items, lengths = np.array([4, 5, 6, 7, 8, 9]), np.array([4, 1, 1])
    keys = np.array([30, 10, 40, 20, 5, 6])
    masked = _masked(items, lengths, keys, np.array([2, 0, 1]), 99)
    assert masked.tolist() == [4, 99, 6, 99, 8, 99]


def test_shuffles_by_hand() -> None:
    items, lengths = np.array([4, 5, 6, 7, 8, 9]), np.array([4, 0, 2])
    keys = np.array([0, 30, 20, 10, 2, 1])
    start, n = np.array([1, 0, 0]), np.array([3, 0, 2])
    assert _shuffled(items, lengths, keys, start, n).tolist() == [4, 7, 6, 5, 9, 8]


def test_what_each_augmentation_keeps() -> None:
    sequences = packed(long_rows(200))
    seen = set()
    for sequence, *both in pairs(sequences, views_of(sequences)):
        kinds = [kind_of(sequence, view) for view in both]
        assert kinds[0] != kinds[1]
        for kind, view in zip(kinds, both, strict=True):
            if kind == CROP:
                at = sequence.index(view[0])
                assert view == sequence[at : at + 6]
                seen.add(("crop", at))
            elif kind == MASK:
                places = [place for place, item in enumerate(view) if item == N_ITEMS]
                assert len(places) == 3
                assert all(
                    a == b
                    for place, (a, b) in enumerate(zip(view, sequence, strict=True))
                    if place not in places
                )
                seen.update(("mask", place) for place in places)
            else:
                assert sorted(view) == sequence
                moved = [place for place in range(10) if view[place] != sequence[place]]
                assert not moved or moved[-1] - moved[0] < 6
                seen.update(("reorder", place) for place in moved)
    assert {at for name, at in seen if name == "crop"} == set(range(5))
    assert {at for name, at in seen if name == "mask"} == set(range(10))
    assert {at for name, at in seen if name == "reorder"} == set(range(10))


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


def test_all_pairs_places_and_orders_are_equally_likely() -> None:
    sequences = packed(long_rows(6000))
    kinds, starts, masked = np.zeros((3, 3)), np.zeros(5), np.zeros(10)
    firsts = np.zeros(10)
    for sequence, *both in pairs(sequences, views_of(sequences, reorder=1.0)):
        found = [kind_of(sequence, view) for view in both]
        kinds[tuple(found)] += 1
        for kind, view in zip(found, both, strict=True):
            if kind == CROP:
                starts[sequence.index(view[0])] += 1
            elif kind == MASK:
                masked[[place for place in range(10) if view[place] == N_ITEMS]] += 1
            else:
                firsts[sequence.index(view[0])] += 1
    assert not kinds.diagonal().any()
    # Beyond these values with probability .001, of 5, 4, 9 and 9 degrees of freedom.
    assert chi_square(kinds[~np.eye(3, dtype=bool)]) < 20.5
    assert chi_square(starts) < 18.5
    assert chi_square(masked) < 27.9
    assert chi_square(firsts) < 27.9


def test_short_sequences() -> None:
    sequences = packed([[7]] * 50 + [[8, 9]] * 50)
    for sequence, *both in pairs(sequences, views_of(sequences)):
        for view in both:
            # floor(.6 * 2) = 1 item is cropped to and "shuffled", floor(.3 * 2) = 0 masked.
            assert view in ([sequence] if len(sequence) == 1 else [[8], [9], [8, 9]])


def test_ratios_at_their_ends() -> None:
    sequences = packed(long_rows(60))
    for sequence, *both in pairs(sequences, views_of(sequences, crop=1.0, mask=1.0, reorder=0.0)):
        assert {tuple(view) for view in both} <= {tuple(sequence), (N_ITEMS,) * 10}


def test_views_are_a_proper_batch() -> None:
    rows = [list(range(n)) for n in (4, 12, 1, 7, 30)]
    sequences = packed(rows)
    views = views_of(sequences)
    assert sorted(views.sources.tolist()) == list(range(10))
    assert (np.diff(views.host_lengths) <= 0).all()
    assert views.host_lengths.tolist() == views.lengths.tolist()
    expected = [np.arange(MAX_LENGTH - n, MAX_LENGTH) for n in views.host_lengths]
    assert views.positions.tolist() == np.concatenate(expected).tolist()
    assert {t.dtype for t in (views.items, views.indptr, views.positions)} == {torch.int64}


def test_views_do_not_depend_on_the_batch_but_on_seed_epoch_and_user() -> None:
    rows, users = long_rows(40), np.arange(40)
    reference = pairs(packed(rows, users), views_of(packed(rows, users)))
    some = [31, 2, 17]
    alone = packed([rows[0]] * 3, np.array(some))
    assert pairs(alone, views_of(alone)) == [reference[user] for user in some]
    for other in (packed(rows, users, seed=4), packed(rows, users, epoch=1)):
        same = [a == b for a, b in zip(pairs(other, views_of(other)), reference, strict=True)]
        assert sum(same) < 4
    assert len({str(row[1:]) for row in reference}) > 35


def test_dropout_of_views_is_that_of_other_users() -> None:
    sequences = packed(long_rows(9), np.arange(9) * 5, seed=8, epoch=6)
    key = views_of(sequences).dropout_key
    complete = COMPLETE_USERS + sequences.dropout_key.users
    users = torch.cat([sequences.dropout_key.users, complete, key.users])
    assert len(users.unique()) == 4 * 9
    assert (key.seed, key.epoch) == (8, 6)
    view, of = np.divmod(views_of(sequences).sources, 9)
    first = torch.tensor(VIEW_USERS)[torch.from_numpy(view)]
    assert (key.users - first == sequences.dropout_key.users[of]).all()


def test_no_sequences() -> None:
    views = views_of(packed([]))
    assert len(views) == 0
    assert views.n_tokens == 0


def test_a_key_is_needed() -> None:
    with pytest.raises(ValueError, match="dropout_key"):
        views_of(packed([[1, 2]], seed=None))


@pytest.mark.parametrize(
    "ratios", [{"crop": 0.0}, {"crop": 1.1}, {"mask": -0.1}, {"reorder": 1.5}, {"mask": np.nan}]
)
def test_ratios_are_shares(ratios) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(ratios))} must lie in"):
        Augmentation(**ratios)
