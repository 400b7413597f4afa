"""``hidden_chain``: products and loops against dense states; which is chosen; arguments."""

import numpy as np
import pytest
import torch

from pdrec_fast.ops.denoising.hidden_chain import _offered, hidden_chain
from tests.ops.denoising.test_noisy_input import histories

ROWS, ITEMS, HIDDEN, STEPS = 37, 70, 41, 4  # two or three of the kernel's tiles in each direction


def inputs(device, dtype=torch.float64, *, rows=ROWS, hidden=HIDDEN, steps=STEPS):
    """(indptr, items, values), (item_in, gram, bias, time, coefficients)"""
    sparse = histories(rows, ITEMS)[:3]
    generator = torch.Generator().manual_seed(hidden)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = normal(ITEMS, hidden), normal(hidden, hidden) / hidden**0.5
    vectors = normal(hidden), normal(steps, hidden)
    coefficients = torch.rand(2, steps, generator=generator, dtype=torch.float64).unbind()
    layer = [tensor.to(dtype) for tensor in (*weights, *vectors)]
    return sparse, [tensor.to(device) for tensor in (*layer, *coefficients)]


def on_device(sparse, device):
    return [torch.from_numpy(array).to(device) for array in sparse]


def test_reference_is_the_equation_over_dense_states(device):
    generator = torch.Generator().manual_seed(0)
    n_items, hidden, steps = 7, 3, 3
    item_in, item_out = torch.randn(2, n_items, hidden, generator=generator, dtype=torch.float64)
    item_bias = torch.randn(n_items, generator=generator, dtype=torch.float64)
    time = torch.randn(steps, hidden, generator=generator, dtype=torch.float64)
    c1, c2 = torch.rand(2, steps, generator=generator, dtype=torch.float64)
    x = torch.tensor([[0, 1.0, 0, 0, 0.5, 0, 0], [0] * 7], dtype=torch.float64)
    sparse = np.array([0, 2, 2]), np.array([4, 1], np.int32), np.array([0.5, 1], np.float32)
    arguments = item_in, item_out.T @ item_in, item_bias @ item_in, time, c1, c2
    for t in (2, 1, 0):
        h = torch.tanh(x @ item_in + time[t])
        x = c1[t] * (h @ item_out.T + item_bias) + c2[t] * x
    for impl in ("reference", "torch"):
        found = hidden_chain(*sparse, *(tensor.to(device) for tensor in arguments), impl=impl)
        torch.testing.assert_close(found.cpu(), h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("n_rows", "hidden", "first"),
    [(4095, 257, "torch"), (4096, 257, "triton"), (1, 256, "triton"), (0, 1000, "torch")],
)
def test_few_rows_of_a_wide_layer_go_to_the_library(n_rows, hidden, first):
    assert next(iter(_offered(torch.empty(3, hidden, device="meta"), n_rows))) == first


@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (0, lambda a: a[1:], r"must rise from 0 to"),
        (1, lambda a: a + ITEMS, r"items must lie in 0 \.\. 69"),
        (2, lambda a: a[1:], r"values must have shape"),
        (3, lambda a: a[0], r"item_in must be a floating tensor of shape \[N, H\]"),
        (4, lambda a: a.double(), r"gram must be torch.float32"),
        (4, lambda a: a[1:], r"gram must have shape \(41, 41\)"),
        (5, lambda a: a[1:], r"bias must have shape"),
        (6, lambda a: a[:0], r"time must have a row for every step"),
        (7, lambda a: a[1:], r"x0_coefficient must have shape \(4,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(device, position, change, message):
    sparse, layer = inputs(device, torch.float32)
    arguments = [*sparse, *layer]
    arguments[position] = change(arguments[position])
    with pytest.raises(ValueError, match=message):
        hidden_chain(*arguments)
    if position == 2:
        arguments[:3] = on_device(arguments[:3], device)
        with pytest.raises(ValueError, match=r"values must be torch.float32 of shape \[\d+\]"):
            hidden_chain(*arguments)
