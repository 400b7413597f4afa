"""Every built-in encoder in training: alone and guided, resumed, and with a loss of its own."""

from typing import Any

import numpy as np
import pytest
import torch

from pdrec_fast.data import Interactions, Split, leave_one_out, synthetic
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders import ENCODERS, SASRec
from pdrec_fast.evaluation import evaluate
from pdrec_fast.preferences import Preferences
from pdrec_fast.training import MODULES, PDRec
from pdrec_fast.training.batches import Batch
from pdrec_fast.training.task import PDRecTask

OPTIONS = {"width": 16, "max_length": 20}
SUBSETS = [(), MODULES]


class Popular:
    def scores(self, histories, items=None):
        return torch.arange(histories.n_items).float().repeat(len(histories), 1)


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic(300, 200, seed=0, noise=0.05))


@pytest.fixture(scope="module")
def preferences(split: Split) -> Preferences:
    return Preferences.infer(Popular(), split.train, top_m=5, n_draws=16, progress=False)


def model_of(encoder: Any, modules: tuple[str, ...], **settings: Any) -> PDRec:
    options = OPTIONS if isinstance(encoder, str) else None
    settings = {"batch_size": 64, "lr": 1e-2, "dpa_top_n": 2, "device": "cpu"} | settings
    return PDRec(encoder, modules=modules, encoder_options=options, **settings)


def task_of(encoder: Any, train: Interactions, preferences, modules, **settings: Any) -> PDRecTask:
    model = model_of(encoder, modules, **settings)
    model.encoder = model.new_encoder(train.n_items)
    return model.training_task(train, preferences)


def first_batch(task: PDRecTask, epoch: int = 0) -> Batch:
    return next(task.batches.epoch(np.arange(40), epoch))


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_training_helps(split: Split, encoder: str) -> None:
    def ndcg(model: PDRec) -> float:
        return evaluate(model, split, on=["test"], protocols=["full"])["full"]["test"]["ndcg@10"]

    untrained = model_of(encoder, ())
    untrained.encoder = untrained.new_encoder(split.data.n_items)
    trained = model_of(encoder, (), epochs=10, select_by="full").fit(split, progress=False)
    assert ndcg(trained) > 3 * ndcg(untrained)


@pytest.mark.parametrize("modules", SUBSETS)
@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_stopped_and_resumed_ends_the_same(
    split: Split, preferences: Preferences, tmp_path, monkeypatch, encoder, modules
) -> None:
    def trained(**options: Any) -> PDRec:
        model = model_of(encoder, modules, epochs=3)
        return model.fit(split.train, preferences, progress=False, **options)

    straight = trained()
    compute = PDRecTask.train_epoch

    def stopped(self: PDRecTask, epoch: int) -> torch.Tensor:
        if epoch == 2:
            raise KeyboardInterrupt
        return compute(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(PDRecTask, "train_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            trained(checkpoint=tmp_path / "run")
    assert (tmp_path / "run" / "manifest.json").exists()
    resumed = trained(checkpoint=tmp_path / "run")
    assert resumed.history.losses == straight.history.losses
    weights = straight.fitted_encoder().state_dict()
    for name, tensor in resumed.fitted_encoder().state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_saved_and_loaded(split: Split, tmp_path, encoder: str) -> None:
    model = model_of(encoder, (), epochs=1).fit(split, progress=False)
    model.save(tmp_path / "model")
    users = split.data.user_ids[:7]
    for left, right in zip(
        PDRec.load(tmp_path / "model").recommend(users, 5), model.recommend(users, 5), strict=True
    ):
        np.testing.assert_array_equal(left, right)


# --- the loss of views -------------------------------------------------------------------------


@pytest.mark.parametrize("modules", SUBSETS)
def test_views_are_those_of_the_inputs_whatever_the_modules(split, preferences, modules) -> None:
    task = task_of("cl4srec", split.train, preferences, modules)
    batch = first_batch(task, epoch=3)
    plain = first_batch(task_of("cl4srec", split.train, None, ()), epoch=3)
    inputs = plain.sequences
    assert len(batch.views) == 2 * len(inputs) == 80
    assert (batch.views.dropout_key.seed, batch.views.dropout_key.epoch) == (0, 3)
    assert torch.equal(batch.views.items, task.encoder.augment(inputs).items)
    of_views, of_sequences = (
        set(x.dropout_key.users.tolist()) for x in (batch.views, batch.sequences)
    )
    assert len(of_views) == 80
    assert not of_views & of_sequences


@pytest.mark.parametrize("modules", SUBSETS)
def test_the_loss_of_views_is_added(split, preferences, modules) -> None:
    contrastive = task_of("cl4srec", split.train, preferences, modules)
    plain = task_of("sasrec", split.train, preferences, modules)
    weights = contrastive.encoder.state_dict()
    del weights["mask_embedding"]
    plain.encoder.load_state_dict(weights)
    assert first_batch(plain).views is None
    batch = first_batch(contrastive)
    added = contrastive.encoder.auxiliary_loss(batch.views)
    assert added > 0.1
    expected = plain.batch_loss(first_batch(plain)) + added
    torch.testing.assert_close(contrastive.batch_loss(batch), expected)


def test_another_epoch_has_other_views(split) -> None:
    task = task_of("cl4srec", split.train, None, ())
    first, again, other = (first_batch(task, epoch).views for epoch in (0, 0, 1))
    assert torch.equal(first.items, again.items)
    assert not torch.equal(first.items, other.items)


class WithALoss(SASRec):
    """The sequences are their own views; the loss counts their tokens."""

    def __init__(self, n_items: int) -> None:
        super().__init__(n_items, width=8, blocks=1, dropout=0.0)
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def augment(self, sequences: PackedSequences) -> PackedSequences:
        return sequences

    def auxiliary_loss(self, views: PackedSequences) -> torch.Tensor:
        return self.scale * views.n_tokens


def test_an_encoder_of_your_own_may_have_a_loss(split, preferences) -> None:
    task = task_of(WithALoss, split.train, preferences, MODULES)
    batch = first_batch(task)
    with_loss = task.batch_loss(batch)
    n_tokens = len(batch.candidates)
    with torch.no_grad():
        task.encoder.scale.zero_()
    torch.testing.assert_close(with_loss - task.batch_loss(batch), torch.tensor(0.5 * n_tokens))
    task.train_epoch(0)
    assert task.encoder.scale < 0
