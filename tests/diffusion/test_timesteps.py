"""The importance sampler of steps against queues of the last ten losses."""

from collections import deque

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from pdrec_fast.diffusion.timesteps import HISTORY, UNIFORM_SHARE, TimestepSampler


class Queues:
    """What the sampler promises, one loss at a time."""

    def __init__(self, steps):
        self.last = [deque(maxlen=HISTORY) for _ in range(steps)]

    def update(self, steps, losses):
        for step, loss in zip(steps.tolist(), losses.tolist(), strict=True):
            self.last[step].append(loss)

    def probabilities(self):
        n = len(self.last)
        if any(len(queue) < HISTORY for queue in self.last):
            return [1 / n] * n
        rms = [(sum(loss**2 for loss in queue) / HISTORY) ** 0.5 for queue in self.last]
        return [(1 - UNIFORM_SHARE) * value / sum(rms) + UNIFORM_SHARE / n for value in rms]


def check(sampler, queues):
    for step, queue in enumerate(queues.last):
        remembered = sampler.losses[step, : len(queue)].tolist()
        assert sorted(remembered) == sorted(queue)
    expected = torch.tensor(queues.probabilities(), dtype=torch.float64)
    torch.testing.assert_close(sampler.probabilities(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_remembers_the_last_ten_losses_of_each_step(steps, batch):
    sampler, queues = TimestepSampler(steps), Queues(steps)
    generator = torch.Generator().manual_seed(steps * batch)
    for _ in range(40):
        drawn = torch.randint(steps, (batch,), generator=generator)
        losses = torch.rand(batch, dtype=torch.float64, generator=generator)
        sampler.update(drawn, losses)
        queues.update(drawn, losses)
        check(sampler, queues)
    assert int(sampler.counts.sum()) == 40 * batch


@pytest.mark.parametrize("sizes", [[25, 0, 1], [10, 11, 9], [20, 3, 31]])
def test_more_than_ten_losses_of_a_step_in_one_batch(sizes):
    sampler, queues = TimestepSampler(3), Queues(3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        drawn = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
        drawn = drawn[torch.randperm(len(drawn), generator=generator)]
        losses = torch.rand(len(drawn), dtype=torch.float64, generator=generator)
        sampler.update(drawn, losses)
        queues.update(drawn, losses)
        check(sampler, queues)


def test_empty_batch_changes_nothing():
    sampler = TimestepSampler(2)
    sampler.update(torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    before = sampler.losses.clone()
    sampler.update(torch.tensor([], dtype=torch.int64), torch.tensor([]))
    assert torch.equal(sampler.losses, before)
    assert sampler.counts.tolist() == [1, 1]


def filled(losses, **settings):
    """A sampler that has seen each step's loss ten times."""
    sampler = TimestepSampler(len(losses), **settings)
    steps = torch.arange(len(losses)).repeat_interleave(HISTORY)
    sampler.update(steps, torch.tensor(losses, dtype=torch.float64)[steps])
    return sampler


def test_probabilities_by_hand():
    probabilities = filled([1.0, 3.0]).probabilities()
    expected = torch.tensor([0.999 * 0.25 + 0.0005, 0.999 * 0.75 + 0.0005], dtype=torch.float64)
    torch.testing.assert_close(probabilities, expected, rtol=1e-14, atol=0)


def test_uniform_until_every_step_has_ten_losses():
    sampler = TimestepSampler(3)
    steps = torch.tensor([0] * 50 + [1] * 10 + [2] * 9)
    sampler.update(steps, torch.arange(len(steps)).double())
    assert sampler.probabilities().tolist() == [1 / 3] * 3
    sampler.update(torch.tensor([2]), torch.tensor([5.0]))
    assert len(set(sampler.probabilities().tolist())) == 3


def test_uniform_when_importance_is_off():
    assert filled([1.0, 5.0], importance=False).probabilities().tolist() == [0.5, 0.5]


@pytest.mark.parametrize("loss", [0.0, float("nan"), float("inf")])
def test_losses_that_give_no_distribution_leave_it_uniform(loss):
    sampler = filled([loss, loss, loss])
    assert sampler.probabilities().tolist() == [1 / 3] * 3
    steps, correction = sampler.sample(torch.linspace(0, 0.999, 5, dtype=torch.float64))
    assert steps.shape == (5,)
    assert correction.tolist() == [1.0] * 5


def test_correction_makes_the_loss_unbiased():
    losses = torch.tensor([0.1, 2.0, 0.7, 4.0, 0.0], dtype=torch.float64)
    sampler = filled(losses.tolist())
    generator = torch.Generator().manual_seed(0)
    fractions = torch.rand(200_000, dtype=torch.float64, generator=generator)
    steps, correction = sampler.sample(fractions)
    probabilities = sampler.probabilities()
    torch.testing.assert_close(correction, 5 * probabilities[steps], rtol=1e-14, atol=0)
    # In expectation over the draw, sum_t p_t L_t / (T p_t), it is the mean over the steps.
    estimates = losses[steps] / correction
    error = float(estimates.std()) / len(steps) ** 0.5
    assert abs(float(estimates.mean()) - float(losses.mean())) < 5 * error
    counts = np.bincount(steps.numpy(), minlength=5)
    assert chisquare(counts, probabilities.numpy() * len(steps)).pvalue > 1e-4


def test_draws_by_hand():
    sampler = filled([1.0, 3.0])  # step 0 with probability .25025
    fractions = torch.tensor([0.0, 0.2502, 0.2503, 1 - 2**-53], dtype=torch.float64)
    steps, correction = sampler.sample(fractions)
    assert steps.tolist() == [0, 0, 1, 1]
    assert correction.tolist() == pytest.approx([0.5005, 0.5005, 1.4995, 1.4995])


def test_state_round_trip_continues_alike():
    sampler = filled([1.0, 2.0, 3.0])
    copy = TimestepSampler(3)
    copy.load_state_dict({key: value.clone() for key, value in sampler.state_dict().items()})
    for each in (sampler, copy):
        each.update(torch.tensor([0, 2, 2]), torch.tensor([9.0, 8.0, 7.0]))
    assert torch.equal(sampler.losses, copy.losses)
    assert torch.equal(sampler.counts, copy.counts)
    assert torch.equal(sampler.probabilities(), copy.probabilities())


def test_losses_are_kept_without_their_graph():
    sampler = TimestepSampler(2)
    losses = torch.ones(3, requires_grad=True) * 2
    sampler.update(torch.tensor([0, 1, 1]), losses)
    assert not sampler.losses.requires_grad
