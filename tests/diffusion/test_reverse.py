"""The reverse process: hidden-layer chain against dense chain against a loop over scalars."""

import math

import numpy as np
import pytest
import torch

from pdrec_fast.diffusion.denoiser import Denoiser, timestep_embedding
from pdrec_fast.diffusion.inputs import SparseRows
from pdrec_fast.diffusion.reverse import HiddenChain, dense_reverse, standard_noise
from pdrec_fast.diffusion.schedule import make_schedule
from pdrec_fast.random_keys import FORWARD_EPOCH, SAMPLING_EPOCH

SCHEDULES = ["linear", "linear-var", "cosine", "binomial"]


def random_denoiser(n_items, hidden, *, dtype=torch.float64, time_embedding=4, normalize=False):
    denoiser = Denoiser(n_items, hidden, time_embedding, normalize).to(dtype)
    generator = torch.Generator().manual_seed(n_items)
    for parameter in denoiser.parameters():
        values = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        parameter.data = (0.5 * values).to(dtype)
    return denoiser.requires_grad_(False)


def random_rows(n_rows, n_items, seed=0):
    """Rows of a few positive weights; the second row is empty."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, min(n_items, 6) + 1, size=n_rows)
    sizes[1:2] = 0
    items = [np.sort(rng.choice(n_items, size, replace=False)) for size in sizes]
    return SparseRows(
        np.concatenate([[0], np.cumsum(sizes)]),
        np.concatenate(items).astype(np.int32),
        rng.uniform(0.5, 1, sizes.sum()).astype(np.float32),
        n_items,
    )


def plain_reverse(denoiser, betas, x0, *, prediction, sampling_steps, forward, posterior):
    """One user's reverse process over lists of floats, from the equations of Ho et al. (2020).

    ``forward`` is the noise of q(x_t | x_0), ``posterior[t]`` that of the step from t.
    """
    alpha_bar = [math.prod(1 - beta for beta in betas[: t + 1]) for t in range(len(betas))]
    x = list(x0)
    if sampling_steps:
        total = alpha_bar[sampling_steps - 1]
        x = [
            math.sqrt(total) * value + math.sqrt(1 - total) * e
            for value, e in zip(x, forward, strict=True)
        ]
    for t in reversed(range(len(betas))):
        output = plain_denoiser(denoiser, x, t)
        total, before = alpha_bar[t], alpha_bar[t - 1] if t else 1.0
        if prediction == "eps":
            output = [
                (value - math.sqrt(1 - total) * e) / math.sqrt(total)
                for value, e in zip(x, output, strict=True)
            ]
        c1 = betas[t] * math.sqrt(before) / (1 - total)
        c2 = (1 - before) * math.sqrt(1 - betas[t]) / (1 - total)
        x = [c1 * clean + c2 * value for clean, value in zip(output, x, strict=True)]
        if t and posterior:
            deviation = math.sqrt(betas[t] * (1 - before) / (1 - total))
            x = [value + deviation * e for value, e in zip(x, posterior[t], strict=True)]
    return x


def plain_denoiser(denoiser, x, t):
    def layer(values, weight, bias):
        return [
            sum(w * v for w, v in zip(row, values, strict=True)) + b
            for row, b in zip(weight.tolist(), bias.tolist(), strict=True)
        ]

    if denoiser.normalize_input:
        norm = max(math.sqrt(sum(value * value for value in x)), 1e-12)
        x = [value / norm for value in x]
    embedding = timestep_embedding(torch.tensor([t]), denoiser.time_embedding)[0].tolist()
    time = layer(embedding, denoiser.time.weight, denoiser.time.bias)
    joined = torch.cat([denoiser.item_in.T, denoiser.time_in.weight], dim=1)
    h = [math.tanh(v) for v in layer([*x, *time], joined, denoiser.time_in.bias)]
    for inner in denoiser.inner:
        h = [math.tanh(v) for v in layer(h, inner.weight, inner.bias)]
    return layer(h, denoiser.item_out, denoiser.item_bias)


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize(
    ("n_rows", "n_items", "hidden", "steps"),
    [(1, 1, 1, 1), (3, 7, 2, 4), (5, 31, 8, 10), (4, 13, 17, 5), (65, 129, 33, 3)],
)
def test_hidden_chain_equals_the_dense_chain(schedule_name, n_rows, n_items, hidden, steps):
    schedule = make_schedule(schedule_name, steps)
    rows = random_rows(n_rows, n_items)
    users = np.arange(n_rows)
    wide = random_denoiser(n_items, (hidden,))
    truth = dense_reverse(wide, schedule, rows, users)
    scale = float(truth.abs().max())
    vectors = HiddenChain.prepare(wide, schedule).run(rows)
    assert vectors.shape == (n_rows, hidden)
    torch.testing.assert_close(wide.decode(vectors), truth, rtol=0, atol=1e-10 * max(scale, 1))

    narrow = random_denoiser(n_items, (hidden,), dtype=torch.float32)
    narrow_vectors = HiddenChain.prepare(narrow, schedule).run(rows)
    # The promise is of each kernel against its reference on the same rounded weights.
    rounded = random_denoiser(n_items, (hidden,), dtype=torch.float32).double()
    truth = dense_reverse(rounded, schedule, rows, users)
    error = (narrow.decode(narrow_vectors).double() - truth).abs().max()
    eager = (dense_reverse(narrow, schedule, rows, users).double() - truth).abs().max()
    assert error <= 1e-5 * max(scale, 1)
    assert error <= 2 * eager + 1e-6 * max(scale, 1)


def test_hidden_chain_keeps_to_the_dense_chain_with_trained_sizes():
    """Weights as they are initialised, H close to N, the paper's schedule."""
    torch.manual_seed(0)
    denoiser = Denoiser(501, (300,)).requires_grad_(False)
    schedule = make_schedule("linear-var", 10)
    rows, users = random_rows(20, 501), np.arange(20)
    vectors = HiddenChain.prepare(denoiser, schedule).run(rows)
    dense = dense_reverse(denoiser, schedule, rows, users)
    scale = float(dense.abs().max())
    torch.testing.assert_close(denoiser.decode(vectors), dense, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("hidden", [(2,), (3, 2), (2, 4, 3)])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("sampling_steps", "sampling_noise"), [(0, False), (2, False), (3, True)])
def test_dense_chain_equals_a_loop_over_scalars(
    prediction, hidden, normalize, sampling_steps, sampling_noise
):
    n_items, steps, seed, users = 5, 3, 11, np.array([4, 9, 2])
    denoiser = random_denoiser(n_items, hidden, normalize=normalize)
    schedule = make_schedule("linear", steps, noise_scale=1, noise_min=0.1, noise_max=0.4)
    rows = random_rows(3, n_items)

    def noise(epoch):
        return standard_noise(3, n_items, seed=seed, epoch=epoch, users=users).tolist()

    actual = dense_reverse(
        denoiser,
        schedule,
        rows,
        users,
        prediction=prediction,
        sampling_steps=sampling_steps,
        sampling_noise=sampling_noise,
        seed=seed,
    )
    forward = noise(FORWARD_EPOCH)
    posterior = [noise(SAMPLING_EPOCH + t) for t in range(steps)] if sampling_noise else []
    for row, x0 in enumerate(rows.dense().tolist()):
        expected = plain_reverse(
            denoiser,
            schedule.betas.tolist(),
            x0,
            prediction=prediction,
            sampling_steps=sampling_steps,
            forward=forward[row],
            posterior=[draws[row] for draws in posterior],
        )
        torch.testing.assert_close(actual[row].tolist(), expected, rtol=1e-10, atol=1e-10)


def test_sampling_noise_belongs_to_the_user_not_to_the_batch():
    denoiser = random_denoiser(9, (4,), dtype=torch.float32)
    schedule = make_schedule("linear", 4, noise_scale=1, noise_min=0.1, noise_max=0.4)
    rows, users = random_rows(5, 9), np.array([3, 1, 7, 0, 2])
    settings = {"sampling_steps": 4, "sampling_noise": True}
    whole = dense_reverse(denoiser, schedule, rows, users, seed=1, **settings)
    picked = np.array([4, 2])
    part = dense_reverse(denoiser, schedule, rows[picked], users[picked], seed=1, **settings)
    torch.testing.assert_close(whole[picked], part, rtol=1e-5, atol=1e-5)
    again = dense_reverse(denoiser, schedule, rows, users, seed=1, **settings)
    assert torch.equal(whole, again)
    for changed in (
        dense_reverse(denoiser, schedule, rows, users, seed=2, **settings),
        dense_reverse(denoiser, schedule, rows, users + 1, seed=1, **settings),
    ):
        assert (whole - changed).abs().max() > 1e-2


def test_standard_noise_is_standard_and_fresh_for_every_key():
    users = np.arange(50)
    noise = standard_noise(50, 999, seed=3, epoch=5, users=users)
    assert noise.dtype == torch.float32
    count = noise.numel()
    assert abs(float(noise.mean())) < 5 / math.sqrt(count)
    assert abs(float(noise.square().mean()) - 1) < 5 * math.sqrt(2 / count)
    others = [
        standard_noise(50, 999, seed=4, epoch=5, users=users),
        standard_noise(50, 999, seed=3, epoch=6, users=users),
        standard_noise(50, 999, seed=3, epoch=5, users=users + 1),
    ]
    for other in others:
        assert abs(float((noise * other).mean())) < 5 / math.sqrt(count)
