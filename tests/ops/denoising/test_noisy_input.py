"""``noisy_input``: hand-made cases, the noise as a distribution, dropout, and equal bits."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pdrec_fast.ops.denoising.noisy_input import noisy_input
from pdrec_fast.reference.counter_rng import words

EMPTY = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)


def noise(users, n_items, *, seed=0, epoch=0, dropout=0.0, impl="auto", **keywords):
    """The operation on empty histories: standard normal noise."""
    n_rows = len(users)
    return noisy_input(
        np.zeros(n_rows + 1, dtype=np.int64),
        *EMPTY,
        n_items,
        np.ones(n_rows, dtype=np.float32),
        np.ones(n_rows, dtype=np.float32),
        dropout,
        seed=seed,
        epoch=epoch,
        users=users,
        impl=impl,
        **keywords,
    )


def histories(n_rows, n_items, seed=0):
    """Random rows of x0 (some empty, items unsorted), signal and sigma (some 0)."""
    rng = np.random.default_rng(seed)
    rows = [rng.choice(n_items, rng.integers(0, min(n_items, 9)), False) for _ in range(n_rows)]
    rows[1] = rows[1][:0]
    indptr = np.cumsum([0, *map(len, rows)])
    items = np.concatenate(rows).astype(np.int32)
    values = rng.uniform(0.1, 1, len(items)).astype(np.float32)
    signal, sigma = rng.uniform(0.1, 1, (2, n_rows)).astype(np.float32)
    sigma[::5] = 0
    return indptr, items, values, n_items, signal, sigma


def shard(rows, first, end):
    """``histories`` of the items first .. end - 1, renumbered from 0."""
    indptr, items, values, _, signal, sigma = rows
    inside = (items >= first) & (items < end)
    indptr = np.concatenate(([0], inside.cumsum()))[indptr]
    return indptr, items[inside] - np.int32(first), values[inside], end - first, signal, sigma


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_noise_or_dropout_it_is_signal_times_x0(dtype, impl):
    found = noisy_input(
        np.array([0, 2, 2, 3]),
        np.array([4, 1, 0], dtype=np.int32),
        np.array([1.0, 0.5, 2.0], dtype=np.float32),
        5,
        np.array([0.5, 1.0, 0.25], dtype=np.float32),
        np.zeros(3, dtype=np.float32),
        0.0,
        seed=1,
        epoch=0,
        users=np.arange(3),
        dtype=dtype,
        impl=impl,
    )
    assert found.dtype == dtype
    assert found.tolist() == [[0, 0.25, 0, 0, 0.5], [0] * 5, [0.5, 0, 0, 0, 0]]


def test_noise_is_box_muller_of_the_words(impl):
    word = words(9, 4, np.array([17]), 8, 0)[0].tolist()
    expected = []
    for first, second in zip(word[::2], word[1::2], strict=True):
        u0, u1 = ((w // 256 + 0.5) / 2**24 for w in (first, second))
        radius = math.sqrt(-2 * math.log(u0))
        expected += [radius * math.cos(2 * math.pi * u1), radius * math.sin(2 * math.pi * u1)]
    found = noise(np.array([17]), 7, seed=9, epoch=4, impl=impl)[0]
    assert found.tolist() == pytest.approx(expected[:7], abs=1e-6)


@pytest.mark.parametrize("n_items", [1, 127, 128, 129, 1003])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_close_to_the_reference_with_the_same_mask(dropout, n_items, impl):
    rows = histories(23, n_items, seed=n_items)
    keywords = {"seed": 5, "epoch": 2, "users": np.arange(23) * 3}
    expected = noisy_input(*rows, dropout, **keywords, impl="reference")
    poisoned = torch.full((23, n_items), torch.nan)
    found = noisy_input(*rows, dropout, **keywords, out=poisoned, impl=impl)
    assert found is poisoned
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    if dropout:
        keep = words(5, 2, keywords["users"], n_items, 1) >= round(dropout * 2**32)
        assert not found[~keep].any()
        noisy = torch.from_numpy(rows[-1] > 0)
        assert torch.equal(found[noisy] != 0, keep[noisy])


def test_noise_is_accurate_over_a_large_sample(impl):
    users = np.arange(50)
    expected = noise(users, 20_000, impl="reference")
    assert (noise(users, 20_000, impl=impl) - expected).abs().max() < 2e-6


@pytest.mark.parametrize("n_items", [130, 777])
def test_bfloat16_is_the_float32_result_rounded_to_nearest_even(n_items, impl):
    rows = histories(9, n_items)
    keywords = {"seed": 5, "epoch": 2, "users": np.arange(9), "impl": impl}
    wide = noisy_input(*rows, 0.2, **keywords)
    poisoned = torch.full((9, n_items), torch.nan, dtype=torch.bfloat16)
    narrow = noisy_input(*rows, 0.2, dtype=torch.bfloat16, out=poisoned, **keywords)
    assert torch.equal(narrow, wide.bfloat16())


def test_bfloat16_ties_go_to_even(impl):
    # Between neighbours of 1: 1 + 2**-8 is halfway up to 1 + 2**-7, 1 + 3 * 2**-8 to 1 + 2**-6.
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], dtype=np.float32)
    ones, zeros = np.ones(1, dtype=np.float32), np.zeros(1, dtype=np.float32)
    found = noisy_input(
        np.array([0, 3]),
        np.arange(3, dtype=np.int32),
        values,
        3,
        ones,
        zeros,
        0.0,
        seed=0,
        epoch=0,
        users=np.zeros(1, dtype=np.int64),
        dtype=torch.bfloat16,
        impl=impl,
    )
    assert found[0].tolist() == [1.0, 1 + 2**-6, 1 + 2**-7]


def test_noise_is_standard_normal(impl):
    sample = noise(np.arange(40), 5003, seed=12, impl=impl).double().numpy().ravel()
    n = len(sample)
    assert abs(sample.mean()) < 4 / math.sqrt(n)
    assert abs(sample.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(stats.skew(sample)) < 4 * math.sqrt(6 / n)
    assert abs(stats.kurtosis(sample)) < 4 * math.sqrt(24 / n)
    assert stats.kstest(sample, "norm").pvalue > 1e-4
    assert np.abs(sample).max() > 4


def test_noise_is_uncorrelated_across_items_users_epochs_and_seeds(impl):
    users, n_items = np.arange(20), 2000
    base = noise(users, n_items, impl=impl)
    others = {
        "next item": base.roll(1, dims=1),
        "next pair": base.roll(2, dims=1),
        "next user": base.roll(1, dims=0),
        "next epoch": noise(users, n_items, epoch=1, impl=impl),
        "next seed": noise(users, n_items, seed=1, impl=impl),
        "seed's high word": noise(users, n_items, seed=2**32, impl=impl),
    }
    for name, other in others.items():
        for power in (1, 2):
            a, b = base.numpy().ravel() ** power, other.numpy().ravel() ** power
            assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / math.sqrt(a.size), (name, power)


def test_dropout_keeps_its_share_and_the_mean_scale(impl):
    n_rows, n_items, p = 30, 3000, 0.25
    found = noisy_input(
        np.arange(n_rows + 1) * n_items,
        np.tile(np.arange(n_items, dtype=np.int32), n_rows),
        np.ones(n_rows * n_items, dtype=np.float32),
        n_items,
        np.ones(n_rows, dtype=np.float32),
        np.zeros(n_rows, dtype=np.float32),
        p,
        seed=3,
        epoch=1,
        users=np.arange(n_rows),
        impl=impl,
    )
    assert found.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    kept = int((found > 0).sum())
    assert stats.binomtest(kept, found.numel(), 1 - p).pvalue > 1e-4


def test_mask_is_independent_of_the_noise(impl):
    users, n_items = np.arange(20), 2000
    plain = noise(users, n_items, impl=impl)
    kept = noise(users, n_items, dropout=0.5, impl=impl) != 0
    assert abs(np.corrcoef(plain.numpy().ravel(), kept.numpy().ravel())[0, 1]) < 4.5 / 200


def test_a_users_row_depends_neither_on_batch_nor_on_threads(impl):
    indptr, items, values, n_items, signal, sigma = histories(31, 333)
    users = np.random.default_rng(1).permutation(1000)[:31]
    keywords = {"seed": 2, "epoch": 7, "impl": impl}
    rows = (indptr, items, values, n_items, signal, sigma, 0.1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = noisy_input(*rows, users=users, **keywords)
    torch.set_num_threads(2)
    assert torch.equal(noisy_input(*rows, users=users, **keywords), whole)
    torch.set_num_threads(threads)
    for row in (0, 7, 30):
        cut = slice(indptr[row], indptr[row + 1])
        one = noisy_input(
            np.array([0, cut.stop - cut.start]),
            items[cut],
            values[cut],
            n_items,
            signal[row : row + 1],
            sigma[row : row + 1],
            0.1,
            users=users[row : row + 1],
            **keywords,
        )
        assert torch.equal(one[0], whole[row])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shard_of_the_items_has_the_columns_of_the_whole(dtype, dropout, impl):
    n_items = 1003
    rows = histories(23, n_items)
    keywords = {"seed": 5, "epoch": 2, "users": np.arange(23) * 3, "dtype": dtype, "impl": impl}
    whole = noisy_input(*rows, dropout, **keywords)
    for first, end in ((0, 131), (4, 5), (132, 260), (128, 1001), (996, n_items), (1000, n_items)):
        part = noisy_input(*shard(rows, first, end), dropout, first_item=first, **keywords)
        assert torch.equal(part, whole[:, first:end]), (first, end)


def test_the_last_items_that_have_words(impl):
    first, users = 2**31 - 8, np.array([2, 2**32 - 1])
    keep = words(3, 1, users, 7, 1, first_block=first // 4) >= round(0.4 * 2**32)
    keywords = {"seed": 3, "epoch": 1, "dropout": 0.4, "first_item": first}
    found = noise(users, 7, impl=impl, **keywords)
    assert torch.equal(found != 0, keep)
    torch.testing.assert_close(found, noise(users, 7, impl="reference", **keywords))
    assert not torch.equal(found, noise(users, 7, impl=impl, **keywords | {"first_item": 0}))


def test_no_rows(impl):
    assert noise(np.zeros(0, dtype=np.int64), 5, impl=impl).shape == (0, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\), got -0.1"),
        ({"dropout": math.nan}, "dropout must lie in"),
        ({"n_items": 0}, "n_items must lie in"),
        ({"first_item": 6}, "first_item must be 0 or a positive multiple of 4, got 6: random"),
        ({"first_item": -4}, "first_item must be 0 or a positive multiple of 4, got -4"),
        ({"first_item": 2**31 - 8}, r"must be below 2\*\*31, got 2147483640 \+ 9"),
        ({"items": np.array([9], dtype=np.int32)}, "items must lie in 0 .. 8, got 9 at 0"),
        ({"indptr": np.array([0, 2])}, "indptr must rise from 0 to 1"),
        ({"indptr": np.zeros(0, dtype=np.int64)}, r"indptr must have shape \[1\]"),
        ({"values": np.zeros(2, dtype=np.float32)}, r"values must have shape \[1\]"),
        ({"values": np.array([np.inf], dtype=np.float32)}, "values must be finite, got inf at 0"),
        ({"signal": torch.tensor([math.nan])}, "signal must be finite"),
        ({"sigma": np.array([-1.0], dtype=np.float32)}, "sigma must be at least 0, got -1.0"),
        ({"users": np.array([2**32])}, "users must lie in"),
        ({"dtype": torch.float16}, "dtype must be torch.float32 or torch.bfloat16"),
        ({"out": torch.zeros(1, 8)}, "out must be a contiguous torch.float32 tensor on cpu"),
        ({"out": torch.zeros(1, 18)[:, ::2]}, "out must be a contiguous"),
        ({"out": torch.zeros(1, 9, dtype=torch.bfloat16)}, "out must be a contiguous"),
        ({"out": torch.zeros(1, 9, requires_grad=True)}, "needs no gradient"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {
        "indptr": np.array([0, 1]),
        "items": np.array([3], dtype=np.int32),
        "values": np.ones(1, dtype=np.float32),
        "n_items": 9,
        "signal": np.ones(1, dtype=np.float32),
        "sigma": np.ones(1, dtype=np.float32),
        "dropout": 0.5,
        "seed": 0,
        "epoch": 0,
        "users": np.zeros(1, dtype=np.int64),
    }
    with pytest.raises(ValueError, match=message):
        noisy_input(**(arguments | change))
