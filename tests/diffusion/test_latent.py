"""L-DiffRec against its definition, category by category, dense and in float64."""

import numpy as np
import pytest
import torch

from pdrec_fast import LatentDiffRec, leave_one_out, synthetic
from pdrec_fast.data import Interactions
from pdrec_fast.diffusion.categories import item_vectors, k_means
from pdrec_fast.diffusion.item_matrix import user_rows
from pdrec_fast.diffusion.latent import LatentConfig, LatentNetwork
from pdrec_fast.diffusion.reverse import standard_noise
from pdrec_fast.random_keys import MODEL_NOISE_USERS, latent_noise_epoch
from tests.diffusion.test_codigem import whole_batch

SETTINGS = {
    "latent": 11,
    "hidden": (7,),
    "categories": 3,
    "batch_size": 500,
    "kl_steps": 4,
    "steps": 4,
    "noise_max": 0.9,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def split():
    return leave_one_out(synthetic(50, 61, seed=1))


def weights_of(train, users, weighting):
    """x_0, float64 [B, N]: 1, or from 0.1 for the first record (an only one too) to 1 for the last;
    of a repeated item the last record counts."""
    x = torch.zeros(len(users), train.n_items, dtype=torch.float64)
    for row, user in zip(x, users, strict=True):
        items = train.items[train.indptr[user] : train.indptr[user + 1]]
        weights = np.ones(len(items))
        if weighting == "rank":
            weights = np.linspace(0.1, 1.0, len(items))
        for item, weight in zip(items, weights, strict=True):
            row[int(item)] = weight
    return x


def encoded(network, x):
    """Mean and log variance, one category after the other."""
    width = len(network.category_of)
    mean, log_variance = (torch.zeros(len(x), width, dtype=torch.float64) for _ in range(2))
    for category in range(network.n_categories):
        items, dims = network.category == category, network.category_of == category
        for out, offset in ((mean, 0), (log_variance, width)):
            columns = torch.arange(width)[dims] + offset
            layer = x[:, items] @ network.item_in[items][:, columns] + network.in_bias[columns]
            out[:, dims] = torch.tanh(layer)
    return mean, log_variance


def decoded(network, z):
    logits = torch.zeros(len(z), len(network.category), dtype=torch.float64)
    for category in range(network.n_categories):
        items, dims = network.category == category, network.category_of == category
        logits[:, items] = z[:, dims] @ network.item_out[items][:, dims].T
    return logits + network.item_bias


@pytest.mark.parametrize("weighting", ["none", "rank"])
def test_the_loss_is_that_of_its_definition(split, weighting):
    model = LatentDiffRec(weighting=weighting, dropout=0.3, diffusion_weight=0.7, **SETTINGS)
    batch = whole_batch(model, split.train)
    found = model.losses(batch)
    weights = dict(model.network.named_parameters())
    gradients = torch.autograd.grad(found.sum(), list(weights.values()))
    network, schedule = model.network.double(), model.schedule
    x = weights_of(split.train, batch.users.numpy(), weighting)
    dropped = x.clone()
    entries = batch.rows.rows, batch.rows.items.long()
    dropped[entries] *= (batch.entry_draws >= 0.3) / 0.7
    assert 0.1 < (dropped[entries] == 0).double().mean() < 0.5
    mean, log_variance = encoded(network, dropped)
    noise = [
        standard_noise(
            len(x),
            11,
            seed=0,
            epoch=latent_noise_epoch(2, draw),
            users=batch.users + MODEL_NOISE_USERS,
        ).double()
        for draw in (0, 1)
    ]
    z0 = mean + (0.5 * log_variance).exp() * noise[0]
    prior = torch.distributions.Normal(0.0, 1.0)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(1)
    t = torch.floor(batch.draws * 4).long()
    assert set(t.tolist()) == {0, 1, 2, 3}
    alpha_bar = schedule.alpha_bar[t][:, None]
    noised = alpha_bar.sqrt() * z0 + (1 - alpha_bar).sqrt() * noise[1]
    prediction = network.denoiser(noised, t)
    snr = schedule.alpha_bar / (1 - schedule.alpha_bar)
    weight = torch.cat([torch.ones(1, dtype=torch.float64), snr[:-1] - snr[1:]])[t]
    diffusion = weight * ((prediction - z0) ** 2).mean(1)
    likelihood = (x * decoded(network, prediction).log_softmax(1)).sum(1)
    # Epoch 2 begins at step 2 of the 4 in which the weight of the divergence rises to 0.3.
    wanted = -likelihood + 0.3 * 2 / 4 * divergence + 0.7 * diffusion
    torch.testing.assert_close(found.double(), wanted, rtol=2e-4, atol=1e-3)
    true_gradients = torch.autograd.grad(wanted.sum(), list(network.parameters()))
    for name, gradient, true in zip(weights, gradients, true_gradients, strict=True):
        atol = 1e-4 * float(true.abs().max())
        torch.testing.assert_close(gradient.double(), true, rtol=1e-3, atol=atol, msg=name)
    outside = network.category[:, None] != network.category_of
    assert not dict(zip(weights, gradients, strict=True))["item_out"][outside].any()


@torch.no_grad()
def test_scores_are_decoded_after_the_reverse_process(split):
    model = LatentDiffRec(epochs=2, lr=0.02, **SETTINGS).fit(split, progress=False)
    histories = split.train.histories()[np.array([4, 0, 4])]
    found = model.scores(histories)
    network, schedule = model.network.double(), model.schedule
    z, _ = encoded(network, weights_of(split.train, [4, 0, 4], "none"))
    for t in (3, 2, 1, 0):
        prediction = network.denoiser(z, torch.full((3,), t)).detach()
        z = schedule.x0_coefficient[t] * prediction + schedule.xt_coefficient[t] * z
    torch.testing.assert_close(found.double(), decoded(network, z), rtol=1e-4, atol=1e-5)
    network.float()
    vectors, offsets = model.item_vectors
    products = model.user_vectors(histories) @ vectors.T + offsets
    torch.testing.assert_close(products, found)


def test_every_category_has_a_part_of_the_latent_space_by_its_size():
    network = LatentNetwork(100, LatentConfig(latent=10, categories=3))
    network.share_out(torch.tensor([0] * 70 + [1] * 29 + [2]))
    assert torch.bincount(network.category_of).tolist() == [6, 3, 1]
    foreign = network.category[:, None] != network.category_of
    assert not network.output()[foreign].any()
    assert network.output()[~foreign].all()


def test_item_vectors_are_leading_singular_vectors():
    train = leave_one_out(synthetic(80, 30, seed=2)).train
    x = weights_of(train, range(train.n_users), "none").T
    counts, lengths = x.sum(1), x.sum(0)
    scaled = x / (counts[:, None] * lengths).clamp_min(1).sqrt()
    left, sizes, _ = torch.linalg.svd(scaled, full_matrices=False)
    found = item_vectors(user_rows(train), 4, torch.Generator().manual_seed(0)).double()
    wanted = left[:, :4] * sizes[:4]
    # The signs are free.
    torch.testing.assert_close(found.abs(), wanted.abs(), rtol=1e-2, atol=2e-3)
    few = item_vectors(user_rows(train), 64, torch.Generator().manual_seed(0))
    assert few.shape == (30, 64)
    assert not few[:, 30:].any()


def test_k_means_finds_clusters_that_lie_apart():
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([0] * 9 + [1] * 6 + [2] * 3)[torch.randperm(18, generator=generator)]
    points = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])[truth]
    found = k_means(points + 0.1 * torch.randn(18, 2, generator=generator), 3, generator)
    assert torch.equal(found, truth)  # numbered by size


def test_k_means_leaves_no_cluster_empty():
    found = k_means(torch.zeros(7, 2), 3, torch.Generator().manual_seed(0))
    assert (torch.bincount(found, minlength=3) > 0).all()


def test_more_categories_than_items():
    few = Interactions.from_arrays([0, 0, 1], [0, 1, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="categories=5: give at most 2, the number of items"):
        LatentDiffRec(categories=5, device="cpu").fit(few, progress=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weighting", "decay"),
        ("categories", 0),
        ("item_width", 0),
        ("latent", 1),
        ("latent", 2.5),
        ("time_embedding", 0),
        ("dropout", 1.0),
        ("kl_weight", -0.1),
        ("kl_steps", 0),
        ("diffusion_weight", -1.0),
        ("schedule", "round"),
        ("noise_min", 0.5),
        ("w_min", 2.0),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        LatentDiffRec(**{name: value})
