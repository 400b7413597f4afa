"""The learning rate of every step, and clipped gradients."""

import math

import pytest
import torch
from torch import nn

from pdrec_fast.fitting.clipping import clip_gradients
from pdrec_fast.fitting.schedule import LearningRate


def rates(schedule="exponential", lr_decay=0.5, warmup_steps=0, epochs=3, n_steps=2):
    of = LearningRate(0.8, schedule, lr_decay, warmup_steps, epochs, n_steps)
    return [of.at(epoch, step) for epoch in range(epochs) for step in range(n_steps)]


def test_exponential_falls_by_epoch():
    assert rates() == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]


def test_cosine_falls_by_step_towards_0_at_the_end():
    found = rates("cosine")
    wanted = [0.4 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert found == pytest.approx(wanted, rel=1e-15)
    assert found[0] == 0.8
    assert LearningRate(0.8, "cosine", 1.0, 0, 3, 2).at(3, 0) == 0


@pytest.mark.parametrize("n_steps", [1, 4])
def test_warm_up_rises_linearly_over_epochs(n_steps):
    epochs = 8 // n_steps
    found = rates(lr_decay=1.0, warmup_steps=5, epochs=epochs, n_steps=n_steps)
    assert found == pytest.approx([0.16, 0.32, 0.48, 0.64, 0.8, 0.8, 0.8, 0.8])


def test_warm_up_multiplies_the_exponential():
    assert rates(warmup_steps=4) == pytest.approx([0.2, 0.4, 0.3, 0.4, 0.2, 0.2])


def test_cosine_begins_after_the_warm_up():
    found = rates("cosine", warmup_steps=2)
    assert found == pytest.approx(
        [0.4, 0.8, *(0.4 * (1 + math.cos(math.pi * i / 4)) for i in range(4))]
    )


@pytest.mark.parametrize("schedule", ["exponential", "cosine"])
@pytest.mark.parametrize("warmup_steps", [6, 7, 100])
def test_a_warm_up_longer_than_the_training_only_rises(schedule, warmup_steps):
    found = rates(schedule, lr_decay=1.0, warmup_steps=warmup_steps)
    assert found == pytest.approx([0.8 * (i + 1) / warmup_steps for i in range(6)])


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "varies"),
    [("exponential", 0, False), ("exponential", 1, True), ("cosine", 0, True)],
)
def test_which_schedules_vary_within_epochs(schedule, warmup_steps, varies):
    assert LearningRate(1.0, schedule, 0.9, warmup_steps, 2, 3).varies_within_epochs is varies


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1e6])
def test_gradients_are_clipped_as_torch_does(max_norm):
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(3, 5)), nn.Parameter(torch.zeros(7))]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    mine = [parameter.grad.clone() for parameter in parameters]
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    torch.testing.assert_close(clip_gradients(mine, max_norm), norm)
    for found, parameter in zip(mine, parameters, strict=True):
        torch.testing.assert_close(found, parameter.grad)


def test_short_gradients_stay_bit_equal():
    gradient = torch.randn(9, generator=torch.Generator().manual_seed(0))
    before = gradient.clone()
    clip_gradients([gradient], 100.0)
    assert torch.equal(gradient, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_hidden(bad):
    gradient = torch.tensor([1.0, bad])
    clip_gradients([gradient], 1.0)
    assert not gradient.isfinite().all()
