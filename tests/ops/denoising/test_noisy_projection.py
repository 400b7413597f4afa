"""``noisy_projection``: hand-made cases, gradients, precision and arguments."""

import numpy as np
import pytest
import torch

from pdrec_fast.errors import BackendError
from pdrec_fast.ops.denoising.noisy_input import noisy_input
from pdrec_fast.ops.denoising.noisy_projection import noisy_projection

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
