"""Batches padded to one shape: the same loss and gradients, whatever stands in the padding."""

import dataclasses

import numpy as np
import pytest
import torch

from pdrec_fast.data import Interactions, leave_one_out, synthetic
from pdrec_fast.encoders import CL4SRec
from pdrec_fast.preferences import Preferences
from pdrec_fast.training import MODULES, PDRec
from pdrec_fast.training.captured import BatchShape, _copy_into, _tensors, pad_batch
from pdrec_fast.training.task import PDRecTask

MAX_LENGTH = 9
SUBSETS = [(), ("dpa",), ("hbr", "nns"), MODULES]


class Popular:
    def scores(self, histories, items=None):
        return torch.arange(histories.n_items).float().repeat(len(histories), 1)


@pytest.fixture(scope="module")
def train() -> Interactions:
    return leave_one_out(synthetic(70, 61, seed=1)).train


@pytest.fixture(scope="module")
def preferences(train) -> Preferences:
    return Preferences.infer(Popular(), train, top_m=5, n_draws=8, progress=False)


def task_of(
    train, preferences, modules, batch_size=16, encoder="sasrec", loss="bce", **settings
) -> PDRecTask:
    options = {"width": 8, "max_length": MAX_LENGTH, "dropout": 0.3}
    settings = {"batch_size": batch_size, "dpa_top_n": 2, "loss": loss} | settings
    model = PDRec(encoder, modules=modules, encoder_options=options, **settings)
    model.encoder = model.new_encoder(train.n_items)
    return model.training_task(train, preferences)


def padded_epoch(task, epoch=0, seed=0):
    order = np.random.default_rng(seed).permutation(task.batches.tokens.n_sequences)
    shape = BatchShape.for_epoch(task.batches, order, epoch)
    plain = list(task.batches.epoch(order, epoch))
    return shape, plain, [pad_batch(batch, shape) for batch in plain]


def loss_and_gradients(task, batch):
    task.encoder.zero_grad()
    loss = task.batch_loss(batch)
    loss.backward()
    gradients = [p.grad.to_dense() for p in task.encoder.parameters()]
    return loss.detach(), gradients


@pytest.mark.parametrize("modules", SUBSETS)
@pytest.mark.parametrize(
    ("encoder", "impl", "loss_name"),
    [
        ("sasrec", "cpp", "bce"),
        ("sasrec", "cpp", "softmax"),
        ("sasrec", "reference", "bce"),
        ("gru4rec", "auto", "bce"),
        ("ligr", "auto", "bce"),
        ("hstu", "auto", "bce"),
    ],
)
def test_padding_changes_neither_loss_nor_gradients(
    train, preferences, modules, encoder, impl, loss_name
):
    task = task_of(train, preferences, modules, encoder=encoder, loss=loss_name, windows=True)
    task.encoder.train()
    for module in task.encoder.modules():
        if hasattr(module, "impl"):
            module.impl = impl
    _, plain, padded = padded_epoch(task)
    for batch, wide in zip(plain, padded, strict=True):
        loss, gradients = loss_and_gradients(task, batch)
        padded_loss, padded_gradients = loss_and_gradients(task, wide)
        torch.testing.assert_close(padded_loss, loss, rtol=1e-5, atol=0)
        for found, wanted in zip(padded_gradients, gradients, strict=True):
            atol = 1e-5 * float(wanted.abs().max()) + 1e-7
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("modules", SUBSETS)
@pytest.mark.parametrize("batch_size", [1, 16, 300])
@pytest.mark.parametrize("windows", [False, True])
def test_all_batches_of_an_epoch_have_one_shape(train, preferences, modules, batch_size, windows):
    task = task_of(train, preferences, modules, batch_size, windows=windows)
    assert task.batches.tokens.latest.all() == (not windows)
    shape, _, padded = padded_epoch(task)
    assert shape.tokens % 256 == 0
    sizes = {tuple((t.shape, t.dtype) for t in _tensors(batch)) for batch in padded}
    assert len(sizes) == 1
    for batch in padded:
        packed = batch.sequences
        assert int(packed.indptr[-1]) == shape.tokens == packed.n_tokens
        assert (packed.lengths >= 0).all()
        assert int(packed.lengths.max()) <= MAX_LENGTH
        assert int(packed.positions.min()) >= 0
        ends = packed.last[packed.lengths > 0]
        assert (packed.positions[ends] == MAX_LENGTH - 1).all()


def test_before_dpa_starts_its_sequences_take_no_room(train, preferences):
    task = task_of(train, preferences, ("dpa",), dpa_start=1)
    early, plain, _ = padded_epoch(task, epoch=0)
    assert all(batch.last is None and batch.soft_positives is None for batch in plain)
    assert early == padded_epoch(task_of(train, preferences, ()), epoch=0)[0]
    late = padded_epoch(task, epoch=1)[0]
    assert late == padded_epoch(task_of(train, preferences, ("dpa",)), epoch=1)[0]
    assert late.sequences > early.sequences


@pytest.mark.parametrize("encoder", ["sasrec", "hstu"])
def test_a_kept_batch_takes_on_every_value_of_another(train, preferences, encoder):
    task = task_of(train, preferences, MODULES, encoder=encoder)
    _, _, (kept, other, *_) = padded_epoch(task)
    before = loss_and_gradients(task, other)
    addresses = [tensor.data_ptr() for tensor in _tensors(kept)]
    _copy_into(kept, other)
    assert [tensor.data_ptr() for tensor in _tensors(kept)] == addresses
    after = loss_and_gradients(task, kept)
    assert torch.equal(after[0], before[0])
    tensors = {id(tensor) for tensor in _tensors(kept)}
    for part in (kept, kept.sequences, kept.sequences.dropout_key):
        values = [getattr(part, field.name) for field in dataclasses.fields(part)]
        assert all(id(v) in tensors for v in values if isinstance(v, torch.Tensor))


def test_graphs_need_a_gpu():
    with pytest.raises(ValueError, match="cuda_graphs=True needs a GPU, the device is 'cpu'"):
        PDRec(cuda_graphs=True, device="cpu")


@pytest.mark.parametrize("encoder", ["gru4rec", "cl4srec", CL4SRec, "bert4rec"])
def test_graphs_need_an_encoder_that_can_be_recorded(encoder):
    model = PDRec(encoder, device="cpu")
    model.cuda_graphs = True  # as on a GPU
    with pytest.raises(
        ValueError, match=r"(?i)(cl4srec|gru4rec|bert4rec)' depend.*cannot be recorded"
    ):
        model.new_encoder(9)


@pytest.mark.parametrize("encoder", ["sasrec", "ligr", "hstu"])
def test_these_can_be_recorded(encoder):
    model = PDRec(encoder, device="cpu")
    model.cuda_graphs = True
    model.new_encoder(9)
