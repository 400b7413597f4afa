"""``noisy_projection``: hand-made cases, gradients, precision and arguments."""

import numpy as np
import pytest
import torch

from pdrec_fast.errors import BackendError
from pdrec_fast.ops.denoising.noisy_input import noisy_input
from pdrec_fast.ops.denoising.noisy_projection import noisy_projection
from tests.ops.denoising.test_noisy_input import histories, shard

IMPLS = ["materialized", "reference"]
KEYS = {"seed": 5, "epoch": 2, "users": np.array([3, 9, 4])}
ROWS = (
    np.array([0, 2, 2, 3]),
    np.array([4, 1, 0], dtype=np.int32),
    np.array([1.0, 0.5, 2.0], dtype=np.float32),
)
SCALES = np.array([0.5, 1.0, 0.25], np.float32), np.array([0.3, 0.0, 1.0], np.float32)


def normal(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("impl", IMPLS)
def test_without_noise_it_gathers_rows_of_the_weight(impl):
    weight = normal(5, 3, dtype=torch.float32)
    found = noisy_projection(*ROWS, weight, SCALES[0], np.zeros(3), 0.0, **KEYS, impl=impl)
    expected = torch.stack((0.5 * weight[4] + 0.25 * weight[1], 0 * weight[0], 0.5 * weight[0]))
    torch.testing.assert_close(found, expected)


def shards_and_whole(impl, dtype, device="cpu"):
    """Result and gradient, by shards of the items and at once, of a weight that is the identity.

    Every product is then an element of x_t or 0, so that sums over items lose nothing.
    """
    n_rows, n_items = 37, 69
    rows, eye = histories(n_rows, n_items), torch.eye(n_items, dtype=dtype, device=device)
    keys = {"seed": 2**63 + 5, "epoch": 2**31 + 1, "users": np.arange(n_rows) * 110_000_003}

    def project(first, end):
        *sparse, _, signal, sigma = shard(rows, first, end)
        weight = eye[first:end].clone().requires_grad_()
        keywords = {**keys, "first_item": first, "impl": impl}
        out = noisy_projection(*sparse, weight, signal, sigma, 0.4, **keywords)
        return out.detach(), torch.autograd.grad(out, weight, eye[:n_rows])[0]

    shards = [project(*ends) for ends in ((0, 36), (36, 40), (40, n_items))]
    outs, gradients = zip(*shards, strict=True)
    return (sum(outs), torch.cat(gradients)), project(0, n_items)


@pytest.mark.parametrize("impl", IMPLS)
def test_shards_of_the_items_add_up_to_the_whole(impl):
    for found, expected in zip(*shards_and_whole(impl, torch.float32), strict=True):
        assert expected.count_nonzero() > 37 * 30
        assert torch.equal(found, expected)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1.6e-2)], ids=["fp32", "bf16"]
)
def test_it_is_the_product_with_the_noised_input(impl, dtype, bound):
    weight, grad_out = normal(5, 3, dtype=dtype).requires_grad_(), normal(3, 3, dtype=dtype)
    out = noisy_projection(*ROWS, weight, *SCALES, 0.4, **KEYS, impl=impl)
    (grad_weight,) = torch.autograd.grad(out, weight, grad_out)
    x = noisy_input(*ROWS, 5, *SCALES, 0.4, **KEYS, impl="reference").double()
    for found, expected in (
        (out, x @ weight.double()),
        (grad_weight, x.T @ grad_out.double()),
    ):
        assert found.dtype == dtype
        assert (found.double() - expected).norm() < bound * expected.norm()


def test_gradients_of_the_reference():
    def project(weight):
        return noisy_projection(*ROWS, weight, *SCALES, 0.4, **KEYS, impl="reference")

    assert torch.autograd.gradcheck(project, normal(5, 3, dtype=torch.float64).requires_grad_())


def test_a_cpu_stores_the_noised_input():
    weight = normal(5, 3)
    auto = noisy_projection(*ROWS, weight, *SCALES, 0.4, **KEYS)
    assert torch.equal(auto, noisy_input(*ROWS, 5, *SCALES, 0.4, **KEYS) @ weight)
    tensors = [torch.from_numpy(array) for array in (*ROWS, *SCALES)]
    users = torch.from_numpy(KEYS["users"])
    again = noisy_projection(*tensors[:3], weight, *tensors[3:], 0.4, **KEYS | {"users": users})
    assert torch.equal(auto, again)


def test_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        out = noisy_projection(*ROWS, normal(5, 3), *SCALES, 0.4, **KEYS)
    narrow = noisy_projection(*ROWS, normal(5, 3).bfloat16(), *SCALES, 0.4, **KEYS)
    assert torch.equal(out, narrow)


def test_a_named_implementation_does_not_fall_back(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match=r"'triton' cannot run.*materialized.*reference"):
        noisy_projection(*ROWS, normal(5, 3), *SCALES, 0.4, **KEYS, impl="triton")
    with pytest.raises(BackendError, match=r"got torch.float64; usable here: \['reference'\]"):
        noisy_projection(*ROWS, normal(5, 3).double(), *SCALES, 0, **KEYS, impl="materialized")


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(5)}, r"weight must be a floating tensor of shape \[N, H\]"),
        ({"weight": torch.zeros(5, 0)}, "N and H at least 1"),
        ({"weight": torch.zeros(4, 3)}, "items must lie in 0 .. 3, got 4 at 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"sigma": -np.ones(3, np.float32)}, "sigma must be at least 0, got -1.0"),
        ({"first_item": 3}, "first_item must be 0 or a positive multiple of 4, got 3"),
        ({"first_item": 2**31 - 4}, r"must be below 2\*\*31, got 2147483644 \+ 5"),
        ({"users": np.array([1, 2])}, r"users must have shape \[3\]"),
        ({"seed": 2**64}, "seed must lie in"),
    ],
)
def test_bad_arguments(change, message, impl):
    names = "indptr", "items", "values", "signal", "sigma"
    arguments = dict(zip(names, (*ROWS, *SCALES), strict=True))
    arguments |= {"weight": torch.zeros(5, 3), "dropout": 0.5, **KEYS, "impl": impl}
    with pytest.raises(ValueError, match=message):
        noisy_projection(**(arguments | change))
