"""``noisy_input`` in Triton: the C++ numbers and mask, every element written."""

import numpy as np
import pytest
import torch

from pdrec_fast.ops.denoising.noisy_input import noisy_input
from pdrec_fast.reference.counter_rng import words
from tests.ops.denoising.test_noisy_input import histories, shard

pytest.importorskip("triton", reason="Triton is not installed")
kernels = pytest.importorskip("pdrec_fast.kernels.triton.denoising.noisy_input")


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch, device):
    if device.type == "cpu":
        monkeypatch.setattr(kernels, "_TILE", (8, 64))
        monkeypatch.setattr(kernels, "_PER_PROGRAM", 32)


KEYS = {"seed": 2**63 + 5, "epoch": 2**31 + 1, "users": np.arange(11) * 390_000_001}


@pytest.mark.parametrize("dropout", [0.0, 0.7])
def test_close_to_the_reference_with_the_same_mask(device, dropout):
    rows = histories(11, 131)
    out = torch.full((11, 131), torch.nan, device=device)
    found = noisy_input(*rows, dropout, **KEYS, device=device, out=out, impl="triton")
    assert found is out
    expected = noisy_input(*rows, dropout, **KEYS, impl="reference")
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)
    if dropout:
        keep = words(KEYS["seed"], KEYS["epoch"], KEYS["users"], 131, 1) >= round(dropout * 2**32)
        noisy = torch.from_numpy(rows[-1] > 0)
        assert not found.cpu()[~keep].any()
        assert torch.equal(found.cpu()[noisy] != 0, keep[noisy])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shard_of_the_items_has_the_columns_of_the_whole(device, dtype):
    rows, keywords = histories(11, 131), KEYS | {"device": device, "dtype": dtype, "impl": "triton"}
    whole = noisy_input(*rows, 0.3, **keywords)
    for first, end in ((0, 67), (4, 5), (68, 131), (128, 131)):
        part = noisy_input(*shard(rows, first, end), 0.3, first_item=first, **keywords)
        assert torch.equal(part, whole[:, first:end]), (first, end)


def test_the_last_items_that_have_words(device):
    *rows, signal, sigma = histories(11, 7)
    arguments = *rows, signal, sigma, 0.3
    keys = KEYS | {"first_item": 2**31 - 8}
    found = noisy_input(*arguments, **keys, device=device, impl="triton").cpu()
    expected = noisy_input(*arguments, **keys, impl="reference")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(found == 0, expected == 0)


def test_an_item_whose_word_is_the_bound_is_kept(device):
    rows = np.array([0, 4]), np.arange(4, dtype=np.int32), np.ones(4, np.float32)
    one, keys = np.ones(1, np.float32), {"seed": 7, "epoch": 0, "users": np.array([3])}
    bounds = words(*keys.values(), 8, 1)[0]
    for bound in bounds.tolist():
        settings = 8, one, one, bound / 2**32
        found = noisy_input(*rows, *settings, **keys, device=device, impl="triton").cpu()
        assert torch.equal(found[0] != 0, bounds >= bound)


def test_noise_is_accurate_over_a_large_sample(device, monkeypatch):
    monkeypatch.setattr(kernels, "_TILE", (8, 4096))
    empty = np.zeros(33, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    ones = np.ones(32, np.float32)
    arguments = (*empty, 20_001, ones, ones, 0.0)
    keys = {"seed": 0, "epoch": 0, "users": np.arange(32)}
    expected = noisy_input(*arguments, **keys, impl="reference")
    found = noisy_input(*arguments, **keys, device=device, impl="triton").cpu()
    bound = 4e-6 if device.type == "cuda" else 2e-6  # a GPU's square root is off by a unit itself
    assert (found - expected).abs().max() < bound


def test_tensors_on_the_device_and_bfloat16(device):
    *rows, n_items, signal, sigma = histories(11, 131)
    tensors = [torch.from_numpy(array).to(device) for array in (*rows, signal, sigma)]
    every_other = [torch.stack((tensor, tensor), 1)[:, 0] for tensor in tensors[3:]]
    users = torch.from_numpy(KEYS["users"]).to(device)
    keys = KEYS | {"users": users, "dtype": torch.bfloat16, "device": device, "impl": "triton"}
    found = noisy_input(*tensors[:3], n_items, *every_other, 0.3, **keys)
    wide = noisy_input(*rows, n_items, signal, sigma, 0.3, **KEYS, impl="reference")
    torch.testing.assert_close(found.cpu().float(), wide, rtol=2**-7, atol=1e-6)
    with pytest.raises(ValueError, match=r"signal must be torch.float32 of shape \[11\]"):
        noisy_input(*tensors[:3], n_items, tensors[3].double(), tensors[4], 0.3, **keys)
    with pytest.raises(ValueError, match="epoch must lie in"):
        noisy_input(*tensors[:3], n_items, *every_other, 0.3, **keys | {"epoch": -1})
    with pytest.raises(ValueError, match="first_item must be 0 or a positive multiple of 4, got 2"):
        noisy_input(*tensors[:3], n_items, *every_other, 0.3, **keys | {"first_item": 2})


def test_no_rows_and_no_items(device):
    nothing = np.zeros(0, np.float32)
    keys = {"seed": 1, "epoch": 0, "device": device, "impl": "triton"}
    indptr, items = np.zeros(1, np.int64), np.zeros(0, np.int32)
    users = np.zeros(0, np.int64)
    found = noisy_input(indptr, items, nothing, 5, nothing, nothing, 0.1, users=users, **keys)
    assert found.shape == (0, 5)
    one, user = np.ones(1, np.float32), np.zeros(1, np.int64)
    found = noisy_input(
        np.zeros(2, np.int64), items, nothing, 5, one, one * 0, 0.1, users=user, **keys
    )
    assert found.tolist() == [[0.0] * 5]


def small_tensors(device):
    """(indptr, items, values, signal, sigma, users) of 13 items."""
    *rows, _, signal, sigma = histories(3, 13)
    arrays = (*rows, signal, sigma, KEYS["users"][:3])
    return [torch.from_numpy(array).to(device) for array in arrays]


def test_custom_op_contract(device):
    *sparse, signal, sigma, users = small_tensors(device)
    arguments = *sparse, 13, signal, sigma, users, 0.3, -5, 2, 8
    operation = torch.ops.pdrec_fast.noisy_input.default
    for dtype in (torch.float32, torch.bfloat16):
        out = torch.zeros(3, 13, dtype=dtype, device=device)
        torch.library.opcheck(operation, (out, *arguments))


def test_compiles_without_a_graph_break(device):
    *sparse, signal, sigma, users = small_tensors(device)
    arguments = *sparse, 13, signal, sigma, 0.3
    keys = {"seed": 2**63 + 5, "epoch": 2, "users": users, "device": device, "impl": "triton"}
    keys["first_item"] = 8
    compiled = torch.compile(noisy_input, fullgraph=True, backend="aot_eager")
    expected = noisy_input(*arguments, **keys)
    assert torch.equal(compiled(*arguments, **keys), expected)
    out = torch.full((3, 13), torch.nan, device=device)
    compiled(*arguments, **keys, out=out)
    assert torch.equal(out, expected)


def test_the_meta_device_takes_the_course_of_a_gpu():
    *sparse, signal, sigma, users = small_tensors("meta")
    keys = {"seed": 1, "epoch": 2, "users": users, "device": "meta"}
    found = noisy_input(*sparse, 13, signal, sigma, 0.3, **keys)
    assert (found.shape, found.device.type) == ((3, 13), "meta")
