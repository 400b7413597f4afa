"""``packed_gru`` against the equations, one sequence and one state at a time, and torch's own."""

import pytest
import torch

from pdrec_fast.errors import BackendError
from pdrec_fast.ops.packed.packed_gru import packed_gru

SIZES = [(1,), (1, 1, 1), (5,), (6, 6, 4, 3, 1, 1, 1)]
IMPLS = ["steps", "reference"]
WIDTH, HIDDEN = 5, 7


def arguments(sizes, dtype=torch.float64, hidden=HIDDEN):
    """x, sizes and the parameters; x and the weights are not contiguous."""
    generator = torch.Generator().manual_seed(len(sizes))
    shapes = (WIDTH, sum(sizes)), (WIDTH, 3 * hidden), (hidden, 3 * hidden)
    matrices = [torch.randn(*s, generator=generator, dtype=dtype).t() for s in shapes]
    biases = [torch.randn(3 * hidden, generator=generator, dtype=dtype) for _ in range(2)]
    x, *parameters = (t.requires_grad_() for t in (*matrices, *biases))
    return x, torch.tensor(sizes), *parameters


def from_the_equations(x, sizes, in_weight, weight, in_bias, bias):
    states, h = [], torch.zeros(int(sizes[0]), weight.shape[1], dtype=x.dtype)
    for now in x.split(sizes.tolist()):
        h = h[: len(now)]
        (w_r, w_z, w_n), (u_r, u_z, u_n) = in_weight.chunk(3), weight.chunk(3)
        (a_r, a_z, a_n), (b_r, b_z, b_n) = in_bias.chunk(3), bias.chunk(3)
        r = 1 / (1 + (-(now @ w_r.T + a_r + h @ u_r.T + b_r)).exp())
        z = 1 / (1 + (-(now @ w_z.T + a_z + h @ u_z.T + b_z)).exp())
        n = (now @ w_n.T + a_n + r * (h @ u_n.T + b_n)).tanh()
        h = (1 - z) * n + z * h
        states.append(h)
    return torch.cat(states)


@pytest.mark.usefixtures("poisoned_outputs")
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("impl", IMPLS)
def test_states_and_gradients_follow_the_equations(sizes, impl):
    inputs = arguments(sizes)
    differentiable = [t for t in inputs if t.requires_grad]
    states, expected = packed_gru(*inputs, impl=impl), from_the_equations(*inputs)
    torch.testing.assert_close(states, expected, rtol=1e-10, atol=1e-12)
    direction = torch.randn(expected.shape, dtype=torch.float64).t().contiguous().t()
    found, wanted = (
        torch.autograd.grad((y * direction).sum(), differentiable) for y in (states, expected)
    )
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("hidden", [1, 3, 64])
def test_float32_is_as_close_to_the_truth_as_torchs_own(hidden):
    sizes = (9, 9, 8, 5, 5, 2, 1, 1)
    truth = from_the_equations(*arguments(sizes, hidden=hidden))
    exact = [t for t in arguments(sizes, hidden=hidden) if t.requires_grad]

    def errors(impl):
        inputs = [
            t.detach().float().requires_grad_() if t.is_floating_point() else t
            for t in arguments(sizes, hidden=hidden)
        ]
        states = packed_gru(*inputs, impl=impl)
        gradients = torch.autograd.grad(states.square().sum(), [inputs[0], *inputs[2:]])
        found = [(states - truth).norm() / truth.norm()]
        return found + [(g - w).norm() / w.norm() for g, w in zip(gradients, wanted, strict=True)]

    repeated = from_the_equations(exact[0], torch.tensor(sizes), *exact[1:])
    wanted = torch.autograd.grad(repeated.square().sum(), exact)
    for ours, torchs in zip(errors("steps"), errors("reference"), strict=True):
        assert ours <= 2 * torchs + 1e-6


def test_an_expanded_gradient():
    inputs = arguments((3, 2, 2))
    gradients = torch.autograd.grad(packed_gru(*inputs).sum(), inputs[0])
    expected = torch.autograd.grad(from_the_equations(*inputs).sum(), inputs[0])
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("impl", ["auto", *IMPLS])
def test_no_tokens(impl):
    inputs = [t if t.dtype == torch.int64 else t.detach() for t in arguments((2, 1))]
    empty = packed_gru(inputs[0][:0], inputs[1][:0], *inputs[2:], impl=impl)
    assert empty.shape == (0, HIDDEN)


def test_the_custom_operations_are_sound():
    inputs = arguments((3, 2, 1))
    ops = torch.ops.pdrec_fast
    torch.library.opcheck(ops.packed_gru.default, inputs)
    states, gates = (t.detach() for t in ops.packed_gru(*inputs))
    torch.library.opcheck(
        ops.packed_gru_backward.default,
        (torch.ones_like(states), *(t.detach() for t in inputs), states, gates),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_autocast_computes_in_float32():
    inputs = [t if t.dtype == torch.int64 else t.detach().float() for t in arguments((3, 2))]
    with torch.autocast("cpu", torch.bfloat16):
        found = packed_gru(inputs[0].bfloat16(), *inputs[1:])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, packed_gru(inputs[0].bfloat16().float(), *inputs[1:]))


def test_other_devices_take_torchs_own():
    x, sizes, *parameters = arguments((3, 2))
    x, *parameters = (t.to("meta") for t in (x, *parameters))
    assert packed_gru(x, sizes, *parameters).device.type == "meta"
    with pytest.raises(BackendError, match="runs on the CPU, got a tensor on meta"):
        packed_gru(x, sizes, *parameters, impl="steps")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([3, 1], "sum to 5"),
        ([2, 3], "not rise"),
        ([5, 0], "at least 1"),
        ([2.0, 3.0], "int64"),
        ([[3, 2]], "int64"),
    ],
)
def test_sizes_must_be_those_of_the_steps(sizes, message):
    x, _, *parameters = arguments((3, 2))
    with pytest.raises(ValueError, match=message):
        packed_gru(x, torch.tensor(sizes), *parameters)


@pytest.mark.parametrize("wrong", ["x", "in_weight", "weight", "in_bias", "bias"])
def test_shapes_must_fit(wrong):
    names = ["x", "sizes", "in_weight", "weight", "in_bias", "bias"]
    inputs = dict(zip(names, arguments((3, 2)), strict=True))
    inputs[wrong] = inputs[wrong][..., :-1]
    with pytest.raises(ValueError, match="must have shape"):
        packed_gru(**inputs)


def test_an_unknown_implementation():
    with pytest.raises(ValueError, match=r"impl='cpp'.*steps"):
        packed_gru(*arguments((1,)), impl="cpp")
