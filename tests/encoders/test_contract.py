"""Every encoder with everything that PDRec does with one: its modules, losses, fusion, features.

What its states must be is in ``test_encoder_contract.py`` and ``test_references.py``; that it
resumes bit-equal, is saved and loaded in ``tests/training/test_encoders.py``, that it stays on its
device in ``tests/test_devices.py``."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from pdrec_fast.encoders import ENCODERS, PrefixEncoder
from pdrec_fast.training.batches import Batch
from pdrec_fast.training.task import PDRecTask

NAMES = sorted(ENCODERS)
MODULES = [(), ("hbr",), ("dpa",), ("nns",), ("hbr", "dpa", "nns")]


@cache
def split() -> pf.Split:
    return pf.leave_one_out(pf.synthetic(n_users=60, n_items=80, seed=2, noise=0.05))


@cache
def preferences() -> pf.Preferences:
    guide = pf.Popularity(split().train)
    return pf.Preferences.infer(guide, split().train, top_m=5, n_draws=16, progress=False)


def model_of(encoder: str, times: bool = False, **settings: Any) -> pf.PDRec:
    options = {
        "modules": (),
        "batch_size": 32,
        "lr": 1e-2,
        "dpa_top_n": 2,
        "epochs": 2,
        "select_by": "full",
    } | settings
    small: dict[str, Any] = {"width": 8, "max_length": 10, "dropout": 0.0}
    small |= {"time_buckets": 20} if times else {}
    return pf.PDRec(encoder, encoder_options=small, device="cpu", **options)


def task_of(encoder: str, **settings: Any) -> PDRecTask:
    model = model_of(encoder, **settings)
    model.encoder = model.new_encoder(split().data.n_items)
    guided = preferences() if model.config.training_modules else None
    return model.training_task(split().train, guided)


def first_batch(task: PDRecTask) -> Batch:
    return next(task.batches.epoch(np.arange(30), 0))


@pytest.mark.parametrize("encoder", NAMES)
def test_what_is_learned_from_is_what_comes_next(encoder: str) -> None:
    for modules in ((), MODULES[-1]):
        task = task_of(encoder, modules=modules)
        batch, tokens = first_batch(task), task.batches.tokens
        sequences = batch.sequences
        inputs = batch.inputs
        if inputs is None:
            inputs = torch.arange(sequences.n_tokens)
        assert len(inputs) == len(batch.candidates)
        chosen = isinstance(task.encoder, PrefixEncoder)
        assert (len(inputs) < tokens.lengths[:30].sum()) == chosen
        rows = np.searchsorted(sequences.indptr.numpy(), inputs.numpy(), side="right") - 1
        for token, row, ranked in zip(inputs.tolist(), rows, batch.candidates, strict=True):
            source = int(sequences.sources[row])
            place = token - int(sequences.indptr[row])
            assert source < 30
            assert ranked[0] == tokens.targets[tokens.starts[source] + place]
        if modules:
            assert batch.last is not None
            assert len(batch.last) == len(batch.soft_positives) == 30
            assert len(batch.weights) == len(inputs)


@pytest.mark.parametrize("encoder", NAMES)
def test_every_module_adds_to_the_loss_and_moves_all_weights(encoder: str) -> None:
    losses = []
    for modules in MODULES:
        task = task_of(encoder, modules=modules)
        torch.manual_seed(0)
        loss = task.batch_loss(first_batch(task))
        loss.backward()
        for name, parameter in task.encoder.named_parameters():
            assert parameter.grad is not None, (modules, name)
        losses.append(float(loss.detach()))
    assert len({round(loss, 6) for loss in losses}) == len(MODULES)


@pytest.mark.parametrize("loss", ["shared_softmax", "corpus_softmax", "gbce"])
@pytest.mark.parametrize("encoder", NAMES)
def test_other_losses_fall(encoder: str, loss: str) -> None:
    task = task_of(encoder, loss=loss, shared_negatives=40, random_negatives=3)
    means = [float(task.train_epoch(epoch).mean()) for epoch in range(6)]
    assert means[-1] < means[0] - 0.02


@pytest.mark.parametrize("encoder", NAMES)
def test_windows_and_rows(encoder: str) -> None:
    task = task_of(encoder, windows=True, table_optimizer="rows")
    before = task.encoder.item_embedding.weight.detach().clone()
    assert task.train_epoch(0).isfinite().all()
    moved = (task.encoder.item_embedding.weight != before).any(dim=1)
    assert moved[task.batches.tokens.targets].float().mean() > 0.5


@pytest.mark.parametrize("encoder", NAMES)
def test_fused_with_popularity(encoder: str) -> None:
    guides = {"popularity": pf.Popularity(split().train)}
    model = model_of(encoder, modules=("fusion",)).fit(split(), guides=guides, progress=False)
    histories = split().test.histories
    share = model.fusion.shares["popularity"]
    assert model.fusion is not None
    scores, own = model.scores(histories), model._encoder_logits(histories, None)
    expected = model.fusion.add_to(own.clone(), histories, None)
    torch.testing.assert_close(scores, expected)
    assert torch.equal(scores, own) == (share.weight == 0)


@pytest.mark.parametrize("encoder", NAMES)
def test_scores_follow_from_the_history_alone(encoder: str) -> None:
    model = model_of(encoder).fit(split(), progress=False)
    histories = split().test.histories
    together = model.scores(histories)
    for user in (0, 7, 31):
        alone = model.scores(histories[[user]])
        torch.testing.assert_close(alone[0], together[user], rtol=1e-4, atol=1e-4)
    vectors, offsets = model.item_vectors
    products = model.user_vectors(histories) @ vectors.T + offsets
    torch.testing.assert_close(products, together, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoder", ["hstu", "ligr"])
def test_what_reads_times_asks_for_them(encoder: str) -> None:
    data = pf.synthetic(n_users=30, n_items=40, seed=0)
    model = model_of(encoder, times=True).fit(pf.leave_one_out(data), progress=False)
    known = data.item_ids[:4].tolist()
    with pytest.raises(ValueError, match="a history with times="):
        model.recommend(history=known, k=3)
    found = model.recommend(history=known, times=[1.0, 2.0, 3.0, 4.0], k=3)
    assert found.items.shape == (1, 3)
    untimed = pf.Interactions.from_arrays(data.user_ids[data.record_users], data.items, None)
    with pytest.raises(ValueError, match=r"encoder\.time_buckets=0"):
        model_of(encoder, times=True).fit(untimed, progress=False)
    config = pf.RunConfig(encoder=encoder, pdrec=pf.PDRecConfig(modules=()))
    config = pf.with_settings(config, {"encoder.time_buckets": 20})
    with pytest.raises(ValueError, match=r"encoder\.time_buckets=0"):
        pf.run(untimed, config)
