"""Training of the diffusion recommender: its loss against dense equations, its state, its seeds."""

import numpy as np
import pytest
import torch

from pdrec_fast.data import Interactions, synthetic
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.diffusion.denoiser import Denoiser
from pdrec_fast.diffusion.reverse import standard_noise
from pdrec_fast.errors import DataError
from pdrec_fast.ops.denoising.noisy_input import noisy_input

SMALL = {
    "hidden": (6,),
    "time_embedding": 4,
    "steps": 4,
    "schedule": "linear",
    "noise_scale": 1.0,
    "noise_min": 0.1,
    "noise_max": 0.4,
    "batch_size": 16,
    "lr": 1e-2,
}


def make_task(data=None, **settings):
    model = DiffRec(**{**SMALL, **settings})
    data = data or synthetic(50, 31, seed=1)
    torch.manual_seed(3)
    config = model.config
    model.denoiser = Denoiser(
        data.n_items, config.hidden, config.time_embedding, config.normalize_input
    )
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.training_task(data)


def losses_of(task, chosen, steps, epoch=0):
    """The losses of some rows of ``fit``."""
    block = task.rows.epoch(chosen, torch.Generator(), task.device)
    return task.step_losses(block, steps, epoch)


def dropout_mask(n_rows, n_items, dropout, **keys):
    """The factor 0 or 1 / (1 - p) of every input, read off the noise with and without dropout."""
    empty = np.zeros(n_rows + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), n_items
    ones = np.ones(n_rows, np.float32)
    dropped = noisy_input(*empty, ones, ones, dropout, **keys)
    return dropped / noisy_input(*empty, ones, ones, 0.0, **keys)


@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("snr_weighting", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("shape", [{}, {"hidden": (6, 5)}, {"normalize_input": True}])
def test_step_losses_are_the_dense_equations(prediction, snr_weighting, dropout, shape):
    task = make_task(prediction=prediction, snr_weighting=snr_weighting, dropout=dropout, **shape)
    chosen, steps = np.array([7, 2, 40, 11, 3, 3]), torch.tensor([0, 1, 2, 3, 0, 2])
    block = task.rows.epoch(chosen, torch.Generator(), task.device)
    rows, users = block.noised, block.users.numpy()
    keys = {"seed": 0, "epoch": 5, "users": users}
    actual = losses_of(task, chosen, steps, epoch=5)

    schedule = task.scorer.schedule
    x0 = torch.zeros(6, 31, dtype=torch.float64)
    x0[rows.rows, rows.items.long()] = rows.values.double()
    noise = standard_noise(6, 31, **keys).double()
    signal, sigma = schedule.signal[steps, None], schedule.sigma[steps, None]
    x = signal * x0 + sigma * noise
    denoiser = task.denoiser.double()
    inputs = torch.nn.functional.normalize(x) if denoiser.normalize_input else x
    dropped = inputs * dropout_mask(6, 31, dropout, **keys).double()
    output = denoiser.decode(denoiser.encode(dropped, steps))
    if prediction == "x0":
        errors = (output - x0).square().mean(dim=1)
    else:
        errors = (output - noise).square().mean(dim=1)
        if snr_weighting:
            # The likelihood of step 0: x_0 as reconstructed from x_t and the predicted noise.
            likelihood = ((x - sigma * output) / signal - x0).square().mean(dim=1) / 2
            errors = torch.where(steps == 0, likelihood, errors)
    weights = schedule.loss_weights(prediction)[steps] if snr_weighting else 1
    torch.testing.assert_close(actual, weights * errors, rtol=2e-5, atol=0)
    assert actual.dtype == torch.float64


def test_dropout_leaves_about_half_of_the_inputs():
    mask = dropout_mask(20, 31, 0.5, seed=0, epoch=1, users=np.arange(20))
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < float((mask > 0).float().mean()) < 0.6


def test_gradients_reach_every_parameter():
    for prediction in ("x0", "eps"):
        task = make_task(prediction=prediction, hidden=(6, 5))
        picked = np.arange(8)
        losses_of(task, picked, torch.arange(8) % 4).mean().backward()
        for name, parameter in task.denoiser.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("hidden", [(6,), (6, 5)])
def test_bf16_losses_are_close_to_fp32(prediction, hidden):
    tasks = [
        make_task(prediction=prediction, hidden=hidden, precision=precision)
        for precision in ("fp32", "bf16")
    ]
    steps, picked = torch.arange(12) % 4, np.arange(12)
    wide, narrow = (losses_of(task, picked, steps) for task in tasks)
    torch.testing.assert_close(narrow, wide, rtol=3e-2, atol=1e-4)
    assert not torch.equal(narrow, wide)


def test_an_epoch_trains_every_user_once():
    task = make_task()
    seen = []
    plain = task.step_losses

    def spy(block, steps, epoch):
        assert len(block) == len(steps) <= 16
        seen.extend(block.users.tolist())
        return plain(block, steps, epoch)

    task.step_losses = spy
    losses = task.train_epoch(0)
    assert losses.shape == (4,)  # 50 users in batches of 16
    assert sorted(seen) == list(range(50))
    first = list(seen)
    seen.clear()
    task.train_epoch(1)
    assert sorted(seen) == list(range(50))
    assert seen != first


def test_users_without_records_are_left_out_and_keep_their_noise():
    data = Interactions(
        indptr=np.array([0, 2, 2, 5]),
        items=np.array([0, 1, 2, 3, 0]),
        timestamps=np.arange(5.0),
        user_ids=np.array([1, 2, 3]),
        item_ids=np.arange(5),
    )
    task = make_task(data)
    assert task.rows.users.tolist() == [0, 2]
    assert len(task.rows) == 2
    assert task.train_epoch(0).isfinite().all()


def test_data_without_records_are_refused():
    nobody = Interactions(
        indptr=np.array([0, 0]),
        items=np.zeros(0, np.int32),
        timestamps=None,
        user_ids=np.array([1]),
        item_ids=np.arange(5),
    )
    with pytest.raises(DataError, match="no records"):
        make_task(nobody)


def test_learning_rate_decays_by_epoch_alone():
    task = make_task(lr=0.5, lr_decay=0.9)
    for epoch in (0, 3, 1):
        task.train_epoch(epoch)
        assert task.optimizer.param_groups[0]["lr"] == 0.5 * 0.9**epoch


def test_the_sampler_sees_the_weighted_losses_before_correction():
    task = make_task(batch_size=50, steps=2)
    seen = {}
    plain = task.step_losses

    def spy(block, steps, epoch):
        losses = plain(block, steps, epoch)
        seen["steps"], seen["losses"] = steps, losses.detach()
        return losses

    task.step_losses = spy
    task.train_epoch(0)
    for step in (0, 1):
        expected = seen["losses"][seen["steps"] == step][-10:]
        assert sorted(task.sampler.losses[step].tolist()) == sorted(expected.tolist())


def test_step_is_adamw_on_the_corrected_mean():
    task, twin = make_task(batch_size=50), make_task(batch_size=50)
    optimizer = torch.optim.AdamW(twin.denoiser.parameters(), lr=1e-2, weight_decay=0.5)
    for epoch in range(3):
        task.train_epoch(epoch)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * 0.99**epoch
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(50, generator=generator).numpy()
        fractions = torch.rand(50, dtype=torch.float64, generator=generator)
        steps, correction = twin.sampler.sample(fractions)
        losses = losses_of(twin, order, steps, epoch)
        twin.sampler.update(steps, losses)
        optimizer.zero_grad()
        (losses / correction).mean().backward()
        optimizer.step()
    for (name, a), b in zip(
        task.denoiser.named_parameters(), twin.denoiser.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_state_and_weights_continue_bit_equal(precision):
    data = synthetic(60, 41, seed=2)
    whole = make_task(data, precision=precision)
    expected = [whole.train_epoch(epoch) for epoch in range(5)][3:]

    first = make_task(data, precision=precision)
    for epoch in range(3):
        first.train_epoch(epoch)
    weights = {key: value.clone() for key, value in first.weights().items()}
    state = {key: value.clone() for key, value in first.state().items()}
    first.train_epoch(7)

    second = make_task(data, precision=precision)
    second.train_epoch(0)
    second.load_weights(weights)
    second.load_state(state)
    for epoch, losses in zip((3, 4), expected, strict=True):
        assert torch.equal(second.train_epoch(epoch), losses)
    for name, tensor in whole.weights().items():
        assert torch.equal(second.weights()[name], tensor), name


def test_without_an_evaluator_nothing_is_validated():
    assert make_task().validate() is None
