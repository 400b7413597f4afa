"""The denoiser against a scalar loop, and its shapes, dtypes and initial weights."""

import math

import pytest
import torch
import torch.nn.functional as F

from pdrec_fast.diffusion.denoiser import Denoiser, timestep_embedding


def random_denoiser(*arguments, seed=0, **settings):
    """A denoiser whose weights are large enough to matter, float64."""
    denoiser = Denoiser(*arguments, **settings).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in denoiser.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return denoiser


def test_timestep_embedding_by_hand():
    embedding = timestep_embedding(torch.tensor([0, 3]), 5)
    row = [math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03), 0]
    torch.testing.assert_close(embedding, torch.tensor([[1, 1, 0, 0, 0], row]))
    assert embedding.dtype == torch.float32


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_timestep_embedding_has_the_width_asked(size):
    embedding = timestep_embedding(torch.arange(4), size)
    assert embedding.shape == (4, size)
    assert embedding.isfinite().all()


def test_forward_by_hand():
    denoiser = Denoiser(2, (1,), time_embedding=2).double()
    for parameter, value in {
        denoiser.item_in: [[0.5], [-1.0]],
        denoiser.item_out: [[2.0], [3.0]],
        denoiser.item_bias: [0.25, -0.25],
        denoiser.time.weight: [[1.0, 2.0], [3.0, 4.0]],
        denoiser.time.bias: [0.1, 0.2],
        denoiser.time_in.weight: [[0.3, -0.2]],
        denoiser.time_in.bias: [0.05],
    }.items():
        parameter.data = torch.tensor(value, dtype=torch.float64)
    # The embedding is cast from float32, in which it is exact at step 0: (cos 0, sin 0) = (1, 0).
    time = 0.3 * (1 + 0.1) - 0.2 * (3 + 0.2) + 0.05
    h = math.tanh(0.5 * 1.5 - 1.0 * -0.5 + time)
    output = denoiser(torch.tensor([[1.5, -0.5]], dtype=torch.float64), torch.tensor([0]))
    expected = torch.tensor([[2 * h + 0.25, 3 * h - 0.25]], dtype=torch.float64)
    torch.testing.assert_close(output, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("hidden", [(3,), (3, 5), (4, 2, 6)])
@pytest.mark.parametrize("normalize", [False, True])
def test_forward_is_the_mlp_of_the_equations(hidden, normalize):
    denoiser = random_denoiser(7, hidden, 4, normalize)
    x = torch.randn(5, 14, dtype=torch.float64)[:, ::2]
    x[2] = 0
    steps = torch.tensor([0, 1, 2, 9, 1])
    scaled = x / x.norm(dim=1, keepdim=True).clamp_min(1e-12) if normalize else x
    embedding = timestep_embedding(steps, 4).double() @ denoiser.time.weight.T + denoiser.time.bias
    # DiffRec feeds [x, embedding] to one layer: its matrix is item_in beside time_in.
    joined = torch.cat([scaled, embedding], dim=1)
    h = joined @ torch.cat([denoiser.item_in, denoiser.time_in.weight.T]) + denoiser.time_in.bias
    h = h.tanh()
    for layer in denoiser.inner:
        h = (h @ layer.weight.T + layer.bias).tanh()
    expected = h @ denoiser.item_out.T + denoiser.item_bias
    torch.testing.assert_close(denoiser(x, steps), expected, rtol=1e-12, atol=1e-12)
    split = denoiser.decode(denoiser.encode(scaled, steps))
    torch.testing.assert_close(split, denoiser(x, steps))


@pytest.mark.parametrize("hidden", [(6,), (6, 3)])
def test_low_precision_input_runs_in_its_dtype_and_trains_wide_weights(hidden):
    torch.manual_seed(0)
    denoiser = Denoiser(9, hidden)
    x = torch.randn(4, 9)
    output = denoiser(x.bfloat16(), torch.tensor([0, 1, 2, 3]))
    assert output.dtype == torch.bfloat16
    wide = denoiser(x, torch.tensor([0, 1, 2, 3]))
    torch.testing.assert_close(output.float(), wide, rtol=1.6e-2, atol=1e-2)
    output.float().square().sum().backward()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.abs().sum() > 0, name


def test_initial_weights_have_the_stated_deviations():
    torch.manual_seed(0)
    denoiser = Denoiser(3000, (200, 100), time_embedding=10)
    deviations = {
        denoiser.item_in: math.sqrt(2 / (3010 + 200)),
        denoiser.time_in.weight: math.sqrt(2 / (3010 + 200)),
        denoiser.inner[0].weight: math.sqrt(2 / 300),
        denoiser.item_out: math.sqrt(2 / 3100),
        denoiser.time.weight: math.sqrt(2 / 20),
        denoiser.item_bias: 0.001,
        denoiser.inner[0].bias: 0.001,
        denoiser.time_in.bias: 0.001,
    }
    for parameter, deviation in deviations.items():
        # Five standard errors of a standard deviation.
        tolerance = 5 / math.sqrt(2 * parameter.numel())
        assert float(parameter.detach().std()) == pytest.approx(deviation, rel=tolerance)


def test_parameter_shapes():
    denoiser = Denoiser(11, (5, 3), time_embedding=4)
    shapes = {name: tuple(parameter.shape) for name, parameter in denoiser.named_parameters()}
    assert shapes == {
        "item_in": (11, 5),
        "item_out": (11, 3),
        "item_bias": (11,),
        "time.weight": (4, 4),
        "time.bias": (4,),
        "time_in.weight": (5, 4),
        "time_in.bias": (5,),
        "inner.0.weight": (3, 5),
        "inner.0.bias": (3,),
    }
    assert denoiser.n_items == 11
    assert denoiser.time_term(torch.arange(6)).shape == (6, 5)


def test_normalised_rows_do_not_depend_on_their_scale():
    denoiser = random_denoiser(6, (4,), normalize_input=True)
    x, steps = torch.randn(3, 6, dtype=torch.float64), torch.tensor([1, 1, 1])
    torch.testing.assert_close(denoiser(7 * x, steps), denoiser(x, steps))
    torch.testing.assert_close(denoiser(F.normalize(x), steps), denoiser(x, steps))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "n_items=0"),
        ((3, ()), r"hidden=\(\)"),
        ((3, (4, 0)), r"hidden=\(4, 0\)"),
        ((3, (4,), 0), "time_embedding=0"),
    ],
)
def test_sizes_below_one_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Denoiser(*arguments)
