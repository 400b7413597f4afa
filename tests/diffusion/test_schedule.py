"""Noise schedules against values worked out by hand and Gaussian algebra."""

import math

import pytest
import torch

from pdrec_fast.diffusion.schedule import NoiseSchedule, make_schedule

NAMES = ["linear", "linear-var", "cosine", "binomial"]
BOUNDS = {"noise_scale": 0.01, "noise_min": 0.1, "noise_max": 0.5}


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "steps", "expected"),
    [
        ("linear", 3, [0.001, 0.003, 0.005]),
        ("linear-var", 3, [0.001, 0.002 / 0.999, 0.002 / 0.997]),
        ("binomial", 4, [1 / 5, 1 / 4, 1 / 3, 1 / 2]),
        ("linear", 1, [0.001]),
        ("linear-var", 1, [0.001]),
        ("binomial", 1, [0.5]),
    ],
)
def test_betas_by_hand(name, steps, expected):
    schedule = make_schedule(name, steps, **BOUNDS, fix_first_beta=False)
    torch.testing.assert_close(schedule.betas, float64(expected), rtol=1e-13, atol=0)
    assert schedule.steps == steps


def test_cosine_by_hand():
    # Only the ratio of neighbouring cos^2 counts; the last one is 0, where beta is capped.
    start, middle = (math.cos(t / 1.008 * math.pi / 2) ** 2 for t in (0.008, 0.508))
    betas = make_schedule("cosine", 2, fix_first_beta=False).betas
    torch.testing.assert_close(betas, float64([1 - middle / start, 0.999]), rtol=1e-13, atol=0)


@pytest.mark.parametrize("steps", [2, 7, 50])
def test_linear_var_spaces_the_total_variance_evenly(steps):
    schedule = make_schedule("linear-var", steps, **BOUNDS, fix_first_beta=False)
    expected = torch.linspace(0.001, 0.005, steps, dtype=torch.float64)
    torch.testing.assert_close(1 - schedule.alpha_bar, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_only_the_first_beta_is_fixed(name, steps):
    free = make_schedule(name, steps, **BOUNDS, fix_first_beta=False).betas
    fixed = make_schedule(name, steps, **BOUNDS).betas
    assert fixed[0] == 1e-5
    assert torch.equal(fixed[1:], free[1:])


def test_derived_quantities_by_hand():
    schedule = NoiseSchedule(float64([0.1, 0.2]))
    expected = {
        "alpha_bar": [0.9, 0.72],
        "signal": [math.sqrt(0.9), math.sqrt(0.72)],
        "sigma": [math.sqrt(0.1), math.sqrt(0.28)],
        "x0_coefficient": [1, 0.2 * math.sqrt(0.9) / 0.28],
        "xt_coefficient": [0, 0.1 * math.sqrt(0.8) / 0.28],
        "posterior_variance": [0, 0.2 * 0.1 / 0.28],
    }
    for name, values in expected.items():
        actual = getattr(schedule, name)
        torch.testing.assert_close(actual, float64(values), rtol=1e-13, atol=0, msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_posterior_is_bayes_rule(name):
    """q(x_{t-1} | x_t, x_0) is the product of q(x_{t-1} | x_0) and q(x_t | x_{t-1}), as Gaussians
    in x_{t-1}."""
    schedule = make_schedule(name, 8, **BOUNDS)
    betas, alpha_bar = schedule.betas.tolist(), schedule.alpha_bar.tolist()
    for t in range(1, 8):
        prior_precision = 1 / (1 - alpha_bar[t - 1])
        step_precision = (1 - betas[t]) / betas[t]
        variance = 1 / (prior_precision + step_precision)
        x0 = variance * prior_precision * math.sqrt(alpha_bar[t - 1])
        xt = variance * step_precision / math.sqrt(1 - betas[t])
        assert float(schedule.x0_coefficient[t]) == pytest.approx(x0, rel=1e-9)
        assert float(schedule.xt_coefficient[t]) == pytest.approx(xt, rel=1e-9)
        assert float(schedule.posterior_variance[t]) == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fix_first_beta", [True, False])
def test_step_zero_takes_the_prediction_whole(name, fix_first_beta):
    schedule = make_schedule(
        name, 5, noise_scale=1e-6, noise_min=1e-3, noise_max=1e-1, fix_first_beta=fix_first_beta
    )
    assert float(schedule.x0_coefficient[0]) == pytest.approx(1, abs=1e-15)
    assert schedule.xt_coefficient[0] == 0
    assert schedule.posterior_variance[0] == 0


def test_loss_weights_by_hand():
    schedule = NoiseSchedule(float64([0.1, 0.2]))
    x0, eps = schedule.loss_weights("x0"), schedule.loss_weights("eps")
    torch.testing.assert_close(x0, float64([1, 9 - 18 / 7]), rtol=1e-13, atol=0)
    torch.testing.assert_close(eps, float64([1, 0.2 / (0.8 * 0.1)]), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_both_predictions_weigh_the_same_bound(name):
    # x_0 - x̂_0 = sigma / signal (ε̂ - ε)
    schedule = make_schedule(name, 10, **BOUNDS)
    rescaled = schedule.loss_weights("x0") * (schedule.sigma / schedule.signal) ** 2
    assert (schedule.loss_weights("x0") > 0).all()
    torch.testing.assert_close(schedule.loss_weights("eps")[1:], rescaled[1:], rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "quadratic", "steps": 3}, "quadratic"),
        ({"name": "linear", "steps": 0}, "steps must be at least 1, got 0"),
        ({"name": "linear", "steps": 3, "noise_scale": 0.0}, r"noise_scale=0\.0"),
        ({"name": "linear-var", "steps": 3, "noise_min": 0.6, "noise_max": 0.5}, "noise_min=0.6"),
        ({"name": "linear", "steps": 3, "noise_scale": 300.0}, "noise_scale=300.0"),
        ({"name": "linear", "steps": 3, "noise_max": math.nan}, "noise_max=nan"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(**arguments)


@pytest.mark.parametrize("betas", [[], [[0.1]], [0.1, 0.0], [0.1, 1.0], [math.nan], [-0.1]])
def test_betas_outside_the_open_unit_interval_are_refused(betas):
    with pytest.raises(ValueError, match="beta"):
        NoiseSchedule(float64(betas))
