"""Every ranking loss trains, guided and plain, and what it learned comes back from files."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from pdrec_fast import (
    DiffRec,
    Guidance,
    PDRec,
    Popularity,
    Preferences,
    Split,
    leave_one_out,
    synthetic,
)
from pdrec_fast.errors import DataError
from tests.rows import interactions_of


class LastItems(torch.nn.Module):
    """The state after a token is the embedding of its item."""

    def __init__(self, n_items):
        super().__init__()
        self.item_embedding, self.max_length = torch.nn.Embedding(n_items, 8), 9

    def forward(self, batch):
        return self.item_embedding(batch.items)


LOSSES = ("gbce", "shared_softmax", "corpus_softmax")
OPTIONS = {
    "encoder_options": {"width": 16, "blocks": 1},
    "lr": 5e-3,
    "batch_size": 64,
    "select_by": "full",
}


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic(n_users=200, n_items=400, seed=0))


@pytest.fixture(scope="module")
def preferences(split: Split) -> Preferences:
    diffusion = DiffRec(hidden=(8,), epochs=2, lr=1e-3).fit(split.train, progress=False)
    return Preferences.infer(diffusion, split.train, top_m=10, n_draws=16, progress=False)


def fitted(split: Split, preferences: Preferences | None = None, **settings) -> PDRec:
    return PDRec("sasrec", **(OPTIONS | settings)).fit(split, preferences, progress=False)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_falls_and_the_ranking_gets_better(split, loss, similarity):
    model = fitted(split, loss=loss, similarity=similarity, modules=(), epochs=12)
    assert model.history.losses[-1] < model.history.losses[0]
    untrained = PDRec("sasrec", modules=(), **OPTIONS)
    untrained.encoder, untrained.data = untrained.new_encoder(split.data.n_items), split.data
    before = untrained.evaluate(split)["full"]["valid"]["ndcg@10"]
    assert model.evaluate(split)["full"]["valid"]["ndcg@10"] > 1.5 * before


@pytest.mark.parametrize("loss", LOSSES)
def test_modules_guide_it(split, preferences, loss):
    settings = {"loss": loss, "epochs": 1, "dpa_top_n": 2}
    plain = fitted(split, modules=(), **settings)
    modules = ("hbr", "dpa") if loss == "corpus_softmax" else ("hbr", "dpa", "nns")
    for module in modules:
        guided = fitted(split, preferences, modules=(module,), **settings)
        assert guided.history.losses != plain.history.losses, module


def test_few_users_make_smaller_steps(split):
    assert pf.PDRecConfig(batch_size=64).users_per_step(100) == 64
    config = pf.PDRecConfig(batch_size=64, min_steps=20, modules=())
    assert [config.users_per_step(n) for n in (5, 60, 200, 1000, 10_000)] == [1, 3, 10, 50, 64]
    model = PDRec("sasrec", config, encoder_options={"width": 8}, loss="shared_softmax")
    model.encoder = model.new_encoder(split.train.n_items)
    assert 20 <= len(model.training_task(split.train).train_epoch(0)) <= 22


def test_all_items_leave_nns_nothing_to_add():
    with pytest.raises(ValueError, match="leave 'nns' out of modules"):
        PDRec("sasrec", loss="corpus_softmax")


def test_a_dot_product_has_no_temperature_to_learn():
    with pytest.raises(ValueError, match="needs similarity='cosine'"):
        PDRec("sasrec", similarity="dot", learn_temperature=True, modules=())


@pytest.mark.parametrize("settings", [{"shared_negatives": 0}, {"gbce_calibration": 1.5}])
def test_settings_out_of_their_range_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        PDRec("sasrec", modules=(), **settings)


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_it_continues_where_it_stopped(split: Split, tmp_path: Path, sampling: str):
    settings = {
        "loss": "shared_softmax",
        "negative_sampling": sampling,
        "learn_temperature": True,
        "modules": (),
        "epochs": 3,
    }
    whole = fitted(split, **settings)

    class StoppedError(Exception):
        pass

    def stop(history):
        if history.epochs == 2:
            raise StoppedError

    interrupted = PDRec("sasrec", **(OPTIONS | settings))
    with pytest.raises(StoppedError):
        interrupted.fit(split, checkpoint=tmp_path, progress=False, on_epoch_end=stop)
    resumed = PDRec("sasrec", **(OPTIONS | settings))
    resumed.fit(split, checkpoint=tmp_path, progress=False)
    assert resumed.history.losses == whole.history.losses
    assert resumed.temperature == whole.temperature


def test_a_learned_temperature_is_saved(split: Split, tmp_path: Path):
    model = fitted(split, loss="softmax", learn_temperature=True, modules=(), epochs=2)
    assert model.temperature != pytest.approx(model.config.temperature, rel=1e-4)
    model.save(tmp_path / "model")
    loaded = PDRec.load(tmp_path / "model")
    assert loaded.temperature == model.temperature
    users = split.data.user_ids[:5]
    for found, expected in zip(loaded.recommend(users), model.recommend(users), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_cold_items_are_neither_ranked_nor_negatives_where_left_out(split: Split):
    settings = {"loss": "shared_softmax", "modules": (), "epochs": 1}
    model = fitted(split, rank_cold_items=False, **settings)
    cold = np.flatnonzero(~model.trained_items)
    assert len(cold)
    histories = split.data.histories(range(5))
    scores = model.scores(histories)
    np.testing.assert_array_equal(np.isneginf(scores.numpy()).any(axis=0).nonzero()[0], cold)
    items = torch.tensor([[cold[0], split.train.items[0]]]).expand(5, -1)
    few = model.scores(histories, items)
    np.testing.assert_allclose(few, scores.gather(1, items), rtol=1e-5)
    task = model.training_task(split.train)
    drawn = task.batches.guidance.shared_negatives.draw(0, 0)
    assert not np.isin(drawn.negatives, cold).any()
    assert drawn.offsets[0] == pytest.approx(np.log(model.trained_items.sum() / 1024))
    everything = fitted(split, **settings).training_task(split.train)
    assert np.isin(everything.batches.guidance.shared_negatives.draw(0, 0).negatives, cold).any()


ROWS = [[0, 1, 2, 3, 4], [1, 2, 3], [4, 2, 0], [4, 3, 2, 1, 0, 1], [2, 3, 4, 1]]


@pytest.mark.parametrize("modules", [(), ("hbr", "dpa"), ("hbr", "dpa", "nns")])
@pytest.mark.parametrize("loss", ["bce", "gbce", "softmax", "shared_softmax", "corpus_softmax"])
def test_who_has_seen_every_item_is_left_out_where_negatives_are_a_users_own(loss, modules):
    if loss == "corpus_softmax":
        modules = tuple(module for module in modules if module != "nns")
    train = interactions_of(ROWS, 5)
    options = {"epochs": 2, "dpa_top_n": 1, "encoder_options": {"width": 8, "max_length": 4}}
    model = PDRec("sasrec", loss=loss, modules=modules, windows=True, **options)
    preferences = None
    if modules:
        preferences = Preferences.infer(Popularity(train), train, n_draws=4, progress=False)
    left_out = loss in ("bce", "gbce", "softmax") or "nns" in modules
    told = r"not trained on: 2 users \('user 0', 'user 3'\), who have interacted with every item"
    with pytest.warns(UserWarning, match=told) if left_out else nullcontext():
        model.fit(train, preferences, progress=False)
    trained = np.unique(Guidance(train, preferences, model.config).tokens.users)
    assert trained.tolist() == ([1, 2, 4] if left_out else [0, 1, 2, 3, 4])
    ids, logits = model.recommend(["user 0", "user 1"], 3)
    assert ids[0].tolist() == [None] * 3
    assert set(ids[1][:2]) == {0, 4}
    assert np.isfinite(logits[1, :2]).all()


def test_where_all_have_seen_every_item_nothing_can_be_drawn():
    train = interactions_of([[0, 1, 2], [2, 1, 0], [1]], 3)
    with pytest.raises(DataError, match="every user with two training records has interacted with"):
        PDRec("sasrec", modules=(), epochs=1).fit(train, progress=False)


def test_views_have_others_to_be_told_from(split: Split):
    model = PDRec("cl4srec", loss="shared_softmax", min_steps=200, modules=(), batch_size=64)
    model.encoder = model.new_encoder(split.train.n_items)
    assert model.training_task(split.train).batches.users_per_step == 32


def test_an_encoder_keeps_its_own_log_temperature():
    class Own(LastItems):
        def __init__(self, n_items):
            super().__init__(n_items)
            self.log_temperature = torch.nn.Parameter(torch.zeros(()))

    with pytest.raises(ValueError, match="call it something else"):
        PDRec(Own, learn_temperature=True, modules=()).new_encoder(9)


def test_a_prepared_model_that_is_fitted_again_forgets_what_it_prepared(split: Split):
    settings = {"loss": "shared_softmax", "modules": (), "epochs": 1}
    histories = split.data.histories(range(4))
    again = fitted(split, **settings).prepared().fit(split.train, progress=False)
    fresh = PDRec("sasrec", **(OPTIONS | settings)).fit(split.train, progress=False)
    np.testing.assert_array_equal(again.scores(histories), fresh.scores(histories))


@pytest.mark.parametrize("name", ["min_steps", "shared_negatives", "batch_size", "warmup_steps"])
def test_a_part_of_a_whole_number_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number, got 1.5"):
        pf.PDRecConfig(**{name: 1.5})
