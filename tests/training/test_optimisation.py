"""Rates, decay and clipping of PDRec's steps, against a loop with torch's own."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pdrec_fast.data import leave_one_out, synthetic
from pdrec_fast.errors import CheckpointError
from pdrec_fast.random_keys import epoch_seed
from pdrec_fast.training import PDRec

OPTIONS = {"width": 8, "max_length": 9, "dropout": 0.1}
SETTINGS = {"modules": (), "batch_size": 16, "lr": 0.02, "epochs": 4, "patience": 4}
STEADY = {
    "lr_schedule": "cosine",
    "warmup_steps": 7,
    "weight_decay": 0.3,
    "clip_norm": 0.05,
}


@pytest.fixture(scope="module")
def split():
    return leave_one_out(synthetic(70, 150, seed=1))


def model_of(**settings):
    return PDRec("sasrec", encoder_options=OPTIONS, device="cpu", **{**SETTINGS, **settings})


def task_of(split, **settings):
    model = model_of(**settings)
    model.encoder = model.new_encoder(split.train.n_items)
    return model.training_task(split.train)


def plain_epochs(task, make, rate, clip_norm=None, epochs=3):
    """What ``task`` should do, with dense gradients, torch's optimiser and its clipping."""
    encoder, config = task.encoder, task.config
    optimizer = make(encoder.parameters())
    for epoch in range(epochs):
        encoder.train()
        torch.manual_seed(epoch_seed(config.seed, epoch))
        order = torch.randperm(task.batches.tokens.n_sequences).numpy()
        for step, batch in enumerate(task.batches.epoch(order, epoch)):
            optimizer.param_groups[0]["lr"] = rate(epoch, step)
            optimizer.zero_grad()
            task.batch_loss(batch).backward()
            for parameter in encoder.parameters():
                parameter.grad = parameter.grad.to_dense()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(encoder.parameters(), clip_norm)
            optimizer.step()
    return encoder.item_embedding.weight


def test_the_defaults_are_adam_with_a_rate_that_falls_by_epoch(split):
    task, other = task_of(split), task_of(split)
    for epoch in range(3):
        task.train_epoch(epoch)

    def adam(parameters):
        return torch.optim.Adam(parameters, lr=1.0, betas=(0.9, 0.98), fused=True)

    wanted = plain_epochs(other, adam, lambda epoch, step: 0.02 * 0.99**epoch)
    torch.testing.assert_close(task.encoder.item_embedding.weight, wanted, rtol=1e-3, atol=1e-5)


def test_schedule_decay_and_clipping_are_torchs(split):
    task, other = task_of(split, **STEADY), task_of(split)
    for epoch in range(3):
        task.train_epoch(epoch)

    def rate(epoch, step):
        done, total = 5 * epoch + step, 20
        if done < 7:
            return 0.02 * (done + 1) / 7
        return 0.01 * (1 + math.cos(math.pi * (done - 7) / (total - 7)))

    def adamw(parameters):
        return torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.3, fused=True)

    wanted = plain_epochs(other, adamw, rate, clip_norm=0.05)
    torch.testing.assert_close(task.encoder.item_embedding.weight, wanted, rtol=1e-3, atol=1e-5)


def test_every_setting_changes_the_weights(split):
    def weights(**settings):
        task = task_of(split, **settings)
        task.train_epoch(0)
        return task.encoder.item_embedding.weight.detach().clone()

    found = [weights()] + [weights(**{name: value}) for name, value in STEADY.items()]
    for i, one in enumerate(found):
        assert not any(torch.equal(one, other) for other in found[i + 1 :])


def test_a_step_read_from_a_tensor_takes_the_same_rates(split):
    """As a recorded step does, whose optimiser reads its rate from a tensor."""
    plain, other = task_of(split, **STEADY), task_of(split, **STEADY)
    for group in other.optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    for epoch in range(2):
        assert torch.equal(plain.train_epoch(epoch), other.train_epoch(epoch))


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_schedule_goes_on_from_a_checkpoint_bit_equal(split, tmp_path, stop_after):
    whole = model_of(**STEADY).fit(split, progress=False)

    def stop(history):
        if history.epochs == stop_after:
            raise KeyboardInterrupt

    for watch in (stop, None):
        model = model_of(**STEADY)
        try:
            model.fit(split, checkpoint=tmp_path / "c", progress=False, on_epoch_end=watch)
        except KeyboardInterrupt:
            continue
    assert model.history.losses == whole.history.losses
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, whole.encoder.state_dict()[name]), name


def test_other_settings_are_another_run(split, tmp_path):
    model_of(epochs=1).fit(split, checkpoint=tmp_path / "c", progress=False)
    for name, value in STEADY.items():
        with pytest.raises(CheckpointError, match="different config"):
            model_of(epochs=1, **{name: value}).fit(
                split, checkpoint=tmp_path / "c", progress=False
            )


def test_the_rate_of_a_step_needs_no_earlier_one(split):
    task = task_of(split, **STEADY)
    found = [task.learning_rate.at(epoch, step) for epoch in range(4) for step in range(5)]
    assert int(np.argmax(found)) == 6
    assert found[-1] < found[7]


@pytest.mark.parametrize("table_optimizer", ["dense", "rows"])
def test_a_learned_temperature_does_not_decay(split, table_optimizer):
    settings = {"learn_temperature": True, "temperature": 9.0, "table_optimizer": table_optimizer}
    task = task_of(split, weight_decay=0.5, **settings)
    decayed = {
        id(p)
        for group in task.optimizer.param_groups
        if group["weight_decay"]
        for p in group["params"]
    }
    named = dict(task.encoder.named_parameters())
    assert {name for name, p in named.items() if id(p) not in decayed} == {"log_temperature"}
    before = named["log_temperature"].item()
    for parameter in named.values():
        parameter.grad = torch.zeros_like(parameter)
    (task.row_adam or task.optimizer).step()
    assert named["log_temperature"].item() == before


def test_a_warm_up_that_never_ends_is_told(split, caplog):
    task_of(split, warmup_steps=19)  # 4 epochs of 5 steps
    assert not caplog.records
    task_of(split, warmup_steps=20)
    assert "4 epochs have 20 steps in all" in caplog.text
