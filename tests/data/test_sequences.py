from dataclasses import replace

import numpy as np
import pytest
import torch

from pdrec_fast.data import Histories
from pdrec_fast.data.sequences import PackedSequences, pack


def histories_of(rows: list[list[int]]) -> Histories:
    """Rows among other users' records, as parts of one flat array with gaps."""
    flat: list[int] = [900, 901]
    starts, stops = [], []
    for row in rows:
        starts.append(len(flat))
        flat += row
        stops.append(len(flat))
        flat.append(902)
    items = np.array(flat, dtype=np.int32)
    return Histories(items, None, np.arange(len(rows)), np.array(starts), np.array(stops), 1000)


def sequences_of(batch: PackedSequences) -> list[list[int]]:
    return [part.tolist() for part in torch.split(batch.items, batch.lengths.tolist())]


ROWS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [10], [11, 12, 13], [14, 15]]


def test_sequences_come_longest_first_and_equal_lengths_in_order() -> None:
    batch = pack(histories_of(ROWS), max_length=10)
    assert batch.sources.tolist() == [2, 0, 4, 5, 1, 3]
    assert batch.host_lengths.tolist() == batch.lengths.tolist()
    assert sequences_of(batch) == [ROWS[row] for row in batch.sources]
    assert batch.lengths.tolist() == [5, 3, 3, 2, 1, 1]
    assert (len(batch), batch.n_tokens) == (6, 15)
    assert batch.items.dtype == batch.lengths.dtype == batch.positions.dtype == torch.int64


def test_indptr_bounds_every_sequence() -> None:
    batch = pack(histories_of(ROWS), max_length=10)
    assert batch.indptr.tolist() == [0, 5, 8, 11, 13, 14, 15]
    assert batch.indptr.dtype == torch.int64


def test_random_batches_keep_every_token() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(900, size=size).tolist() for size in rng.integers(1, 12, size=57)]
    batch = pack(histories_of(rows), max_length=8)
    assert batch.indptr[-1] == batch.n_tokens == sum(min(len(row), 8) for row in rows)
    assert sequences_of(batch) == [rows[row][-8:] for row in batch.sources]
    assert (batch.lengths.diff() <= 0).all()


def test_the_dropout_key_has_the_users_in_packed_order() -> None:
    histories = replace(histories_of(ROWS), users=np.array([30, 10, 50, 20, 40, 60]))
    assert pack(histories, max_length=10).dropout_key is None
    key = pack(histories, max_length=10, seed=7, epoch=3).dropout_key
    assert key is not None
    assert (key.seed, key.epoch) == (7, 3)
    assert key.users.tolist() == [50, 30, 40, 60, 10, 20]


def test_a_bad_dropout_key_is_refused() -> None:
    with pytest.raises(ValueError, match=r"epoch must lie in .* got -1"):
        pack(histories_of(ROWS), max_length=10, seed=7, epoch=-1)


def test_positions_count_from_the_end() -> None:
    batch = pack(histories_of(ROWS), max_length=10)
    positions = [part.tolist() for part in torch.split(batch.positions, batch.lengths.tolist())]
    assert positions == [[5, 6, 7, 8, 9], [7, 8, 9], [7, 8, 9], [8, 9], [9], [9]]


def test_long_sequences_keep_their_latest_items() -> None:
    batch = pack(histories_of([[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]]), max_length=2)
    assert sequences_of(batch) == [[4, 5], [6, 7], [9, 10]]
    assert batch.positions.tolist() == [0, 1] * 3
    assert batch.indptr.tolist() == [0, 2, 4, 6]


def test_last_is_each_sequences_latest_item() -> None:
    batch = pack(histories_of(ROWS), max_length=10)
    assert batch.items[batch.last].tolist() == [9, 3, 13, 15, 4, 10]


@pytest.mark.parametrize("length", [5, 9])
@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
def test_pad_is_right_aligned_and_unpad_inverts_it(length: int, shape: tuple[int, ...]) -> None:
    batch = pack(histories_of(ROWS), max_length=10)
    tokens = torch.rand(batch.n_tokens, *shape) + 1
    padded = batch.pad(tokens, length)
    assert padded.shape == (6, length, *shape)
    for row, part in zip(padded, torch.split(tokens, batch.lengths.tolist()), strict=True):
        assert torch.equal(row[length - len(part) :], part)
        assert not row[: length - len(part)].any()
    assert torch.equal(batch.unpad(padded), tokens)


def test_pad_carries_gradients() -> None:
    batch = pack(histories_of(ROWS), max_length=10)
    tokens = torch.rand(batch.n_tokens, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: batch.pad(x, 6), tokens)


def test_pad_refuses_to_cut_a_sequence() -> None:
    batch = pack(histories_of(ROWS), max_length=10)
    with pytest.raises(ValueError, match=r"length=4.*5"):
        batch.pad(torch.zeros(batch.n_tokens), 4)
    with pytest.raises(ValueError, match=r"length=4.*5"):
        batch.unpad(torch.zeros(6, 4))


def test_an_empty_history_is_refused() -> None:
    with pytest.raises(ValueError, match="without items"):
        pack(histories_of([[1, 2], []]), max_length=10)


def test_an_empty_batch() -> None:
    batch = pack(histories_of([]), max_length=10)
    assert (len(batch), batch.n_tokens, batch.indptr.tolist()) == (0, 0, [0])
    assert batch.last.shape == batch.positions.shape == (0,)
    padded = batch.pad(torch.zeros(0, 3), 4)
    assert padded.shape == (0, 4, 3)
    assert batch.unpad(padded).shape == (0, 3)


def test_packing_copies_rather_than_shares() -> None:
    histories = histories_of(ROWS)
    pack(histories, max_length=10).items.zero_()
    assert histories.items.min() > 0


def test_a_part_is_packed_from_its_sequences_alone() -> None:
    histories = replace(histories_of(ROWS), users=np.array([30, 10, 50, 20, 40, 60]))
    histories = replace(histories, timestamps=np.arange(len(histories.items)) / 2)
    batch = pack(histories, max_length=4, seed=7, times=True)
    for start, stop in ((0, 2), (1, 4), (4, 9), (0, 6), (2, 2)):
        part, rows = batch.part(start, stop), batch.sources[start:stop]
        alone = pack(histories[rows], max_length=4, seed=7, times=True)
        for name in ("items", "indptr", "positions", "times"):
            assert torch.equal(getattr(part, name), getattr(alone, name)), name
        assert part.host_lengths.tolist() == alone.host_lengths.tolist()
        assert part.sources.tolist() == rows.tolist()
        assert torch.equal(part.dropout_key.users, alone.dropout_key.users)


def test_times_are_packed_where_they_are_asked_for_and_known() -> None:
    histories = histories_of(ROWS)
    assert pack(histories, max_length=3, times=True).times is None
    histories = replace(histories, timestamps=np.arange(len(histories.items)) / 2)
    assert pack(histories, max_length=3).times is None
    batch = pack(histories, max_length=3, times=True)
    place = {item: at / 2 for at, item in enumerate(histories.items.tolist())}
    assert batch.times.tolist() == [place[item] for item in batch.items.tolist()]
    assert batch.to(torch.device("meta")).times.device.type == "meta"
