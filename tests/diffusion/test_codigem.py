"""CODIGEM against its definition, dense and in float64."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from pdrec_fast import Codigem, leave_one_out, synthetic
from pdrec_fast.diffusion.reverse import standard_noise
from pdrec_fast.random_keys import MODEL_NOISE_USERS, codigem_noise_epoch


@pytest.fixture(scope="module")
def split():
    return leave_one_out(synthetic(40, 61, seed=1))


def whole_batch(model, train):
    """The first batch of epoch 2, of all users, as ``fit`` makes it."""
    seen = []
    task = model.training_task(train)
    losses = model.losses
    model.losses = lambda batch: seen.append(batch) or losses(batch)
    task.train_epoch(2)
    del model.losses
    return seen[0]


def vectors(train, users):
    x = torch.zeros(train.n_users, train.n_items, dtype=torch.float64)
    x[torch.from_numpy(train.record_users), torch.tensor(train.items).long()] = 1
    return x[users]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_loss_is_the_negative_evidence_lower_bound(split, steps):
    """Of one sample: log densities by torch.distributions, networks in float64; its gradient by
    autograd."""
    beta = 0.05
    model = Codigem(steps=steps, beta=beta, hidden=(9, 7), batch_size=500, device="cpu")
    batch = whole_batch(model, split.train)
    found = model.losses(batch)
    weights = dict(model.network.named_parameters())
    gradients = torch.autograd.grad(found.sum(), list(weights.values()))
    network = model.network.double()
    x = vectors(split.train, batch.users)
    z, bound = [x], torch.zeros(len(x), dtype=torch.float64)
    for step in range(steps):
        noise = standard_noise(
            *x.shape,
            seed=0,
            epoch=codigem_noise_epoch(2, step, steps),
            users=batch.users + MODEL_NOISE_USERS,
        )
        z.append(math.sqrt(1 - beta) * z[-1] + math.sqrt(beta) * noise.double())
        forward = Normal(math.sqrt(1 - beta) * z[-2], math.sqrt(beta))
        bound -= forward.log_prob(z[-1]).sum(1)
    bound += Normal(0.0, 1.0).log_prob(z[-1]).sum(1)
    for step in range(1, steps):
        mean, log_variance = network.reverse[step - 1](z[step + 1]).split(x.shape[1], dim=1)
        bound += Normal(mean, (0.5 * log_variance).exp()).log_prob(z[step]).sum(1)
    bound += Normal(network.decoder(z[1]), 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(found.detach().double(), -bound.detach(), rtol=1e-5, atol=1e-3)
    true_gradients = torch.autograd.grad(-bound.sum(), list(network.parameters()))
    for name, gradient, true in zip(weights, gradients, true_gradients, strict=True):
        atol = 1e-4 * float(true.abs().max())
        torch.testing.assert_close(gradient.double(), true, rtol=1e-4, atol=atol, msg=name)


def test_scores_are_the_decoder_after_one_step_by_its_mean(split):
    model = Codigem(beta=0.1, hidden=(9,), epochs=1, device="cpu").fit(split, progress=False)
    histories = split.train.histories()[np.array([4, 0, 4])]
    z = vectors(split.train, torch.tensor([4, 0, 4])) * math.sqrt(0.9)
    first, activation, last, tanh = model.network.double().decoder
    hidden = z @ first.weight.T + first.bias
    hidden = torch.where(hidden > 0, hidden, activation.weight * hidden)
    wanted = tanh(hidden @ last.weight.T + last.bias)
    model.network.float()
    torch.testing.assert_close(model.scores(histories).double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "value"), [("beta", 0.0), ("beta", 1.0), ("steps", 2.5)])
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        Codigem(**{name: value})
