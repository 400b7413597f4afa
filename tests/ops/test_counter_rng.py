"""The random generator: published vectors, its layout, and the C++ words."""

import numpy as np
import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.reference.counter_rng import bounded, philox4x32, words

# Known answers of philox4x32-10 published with Random123: (counter, key, words).
KNOWN_ANSWERS = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    assert philox4x32(torch.tensor(counter), key).tolist() == list(expected)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_words_take_seed_and_counter_in_the_documented_order(counter, key, expected):
    block, user, epoch, stream = counter
    seed = key[0] | key[1] << 32
    found = words(seed, epoch, np.array([user]), 4, stream, first_block=block)
    assert found.tolist() == [list(expected)]


def test_word_j_is_word_j_mod_4_of_block_j_div_4():
    found = words(7, 3, np.array([5, 2]), 11, 1)
    counters = torch.tensor([[[b, u, 3, 1] for b in range(3)] for u in (5, 2)])
    assert torch.equal(found, philox4x32(counters, (7, 0)).reshape(2, 12)[:, :11])


def test_bounded_covers_the_range_and_no_more():
    word = torch.tensor([0, 2**31, 2**32 - 1])
    assert bounded(word, 10).tolist() == [0, 5, 9]
    assert bounded(word, 2**31 - 1).tolist() == [0, 2**30 - 1, 2**31 - 2]
    assert bounded(word, 1).tolist() == [0, 0, 0]


@pytest.mark.parametrize("isa", build_info().get("isas_runnable", []))
@pytest.mark.parametrize("n_words", [1, 127, 128, 130, 1001])
def test_cpp_words_equal_the_reference(isa, n_words):
    users = np.array([0, 1, 2**32 - 1, 77], dtype=np.int64)
    seed, epoch = 2**64 - 3, 2**32 - 2
    out = np.zeros((len(users), n_words), dtype=np.uint32)
    before = extension.build_info()["isa"]
    extension.set_isa(isa)
    extension.random_words(seed, epoch, users, 2, out, 2)
    extension.set_isa(before)
    assert np.array_equal(out, words(seed, epoch, users, n_words, 2).numpy())
