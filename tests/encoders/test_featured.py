"""Items made of features: one table for lookups and logits, saved models too; new items count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pdrec_fast as pf
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.encoders.featured import FeaturedEmbedding, item_table, with_features

SMALL: dict[str, Any] = {"modules": (), "epochs": 2, "lr": 5e-3, "select_by": "full"}


@pytest.fixture(scope="module")
def split() -> pf.Split:
    """The last ten items have no training record."""
    data = pf.synthetic(n_users=80, n_items=60, seed=0, n_features=5)
    stays = data.items < 50
    users = data.record_users[stays]
    data = pf.Interactions.from_arrays(
        data.user_ids[users], data.item_ids[data.items[stays]], data.timestamps[stays]
    ).with_item_features(data.item_ids, data.item_features)
    return pf.leave_one_out(data)


@pytest.fixture(scope="module", params=sorted(ENCODERS))
def model(request: pytest.FixtureRequest, split: pf.Split) -> pf.PDRec:
    options = {"encoder_options": {"width": 8}, **SMALL}
    return pf.PDRec(request.param, **options).fit(split, progress=False)


def test_a_lookup_is_a_row_of_the_table(model: pf.PDRec) -> None:
    embedding = model.fitted_encoder().item_embedding
    items = torch.tensor([0, 3, 58, 3])
    torch.testing.assert_close(embedding(items), embedding.table()[items])


def test_the_table_is_own_part_plus_features(model: pf.PDRec) -> None:
    embedding = model.fitted_encoder().item_embedding
    data, trained = model.interactions(), model.trained_items
    features = data.item_features / np.sqrt((data.item_features[trained] ** 2).sum(1).mean())
    own = embedding.weight.detach().double().numpy() * trained[:, None]
    wanted = own + features.astype(float) @ embedding.projection.detach().double().numpy().T
    np.testing.assert_allclose(item_table(model.encoder).detach(), wanted, rtol=1e-4, atol=1e-6)


def test_the_own_part_of_a_cold_item_never_moves(split: pf.Split, model: pf.PDRec) -> None:
    cold = ~model.trained_items
    assert cold.sum() >= 10
    fresh = model.new_encoder(split.data.n_items)
    with_features(fresh, split.data.item_features, model.trained_items, model.config.seed)
    before, after = fresh.item_embedding, model.fitted_encoder().item_embedding
    assert torch.equal(before.weight[cold], after.weight[cold])
    assert not torch.equal(before.weight[~cold], after.weight[~cold])
    assert not torch.equal(before.projection, after.projection)


def test_new_items_are_recommended_and_understood(model: pf.PDRec) -> None:
    """By what is like them: a copy of a trained item's features has its place."""
    new = model.interactions().item_ids[~model.trained_items].tolist()
    found = model.recommend(k=3, items=new)
    assert set(found.items.ravel()) <= set(new)
    assert len(np.unique(found.scores)) > 3
    assert not model.recommend(k=3, history=[new[0]], times=[0.0], unknown="popular").fallback.any()


def test_saved_and_loaded(model: pf.PDRec, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = pf.PDRec.load(tmp_path / "model")
    assert (loaded.recommend(k=5).scores == model.recommend(k=5).scores).all()


def test_a_resumed_training_ends_the_same(split: pf.Split, tmp_path: Path) -> None:
    def stop(history: Any) -> None:
        if history.epochs == 1 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise KeyboardInterrupt

    options = {"encoder_options": {"width": 8}, **SMALL}
    whole = pf.PDRec("sasrec", **options).fit(split, progress=False)
    model = pf.PDRec("sasrec", **options)
    fit: dict[str, Any] = {"checkpoint": tmp_path / "c", "progress": False, "on_epoch_end": stop}
    with pytest.raises(KeyboardInterrupt):
        model.fit(split, **fit)
    model.fit(split, **fit)
    assert torch.equal(item_table(whole.encoder), item_table(model.encoder))


def test_every_loss_trains_the_projection(split: pf.Split) -> None:
    for loss, more in [("bce", {}), ("gbce", {}), ("softmax", {"shared_negatives": 16})]:
        options = {"encoder_options": {"width": 8}, **SMALL, "loss": loss, "epochs": 1, **more}
        model = pf.PDRec("sasrec", **options)
        model.fit(split, progress=False)
        fresh = model.new_encoder(split.data.n_items)
        with_features(fresh, split.data.item_features, model.trained_items, 0)
        trained = model.fitted_encoder().item_embedding
        assert not torch.equal(fresh.item_embedding.projection, trained.projection)


def test_rows_of_the_table_cannot_move_alone(split: pf.Split) -> None:
    model = pf.PDRec("sasrec", **SMALL, table_optimizer="rows", loss="bce")
    with pytest.raises(ValueError, match="table_optimizer"):
        model.fit(split, progress=False)


def test_an_encoder_without_a_table_of_its_own_is_refused(split: pf.Split) -> None:
    class Padded(nn.Module):
        def __init__(self, n_rows: int) -> None:
            super().__init__()
            self.item_embedding = nn.Embedding(n_rows, 4, padding_idx=0)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.item_embedding(ids)

    def encoder(n_items: int) -> pf.PaddedEncoder:
        return pf.PaddedEncoder(Padded(n_items + 1), max_length=9)

    with pytest.raises(ValueError, match="item features need"):
        pf.PDRec(encoder, **SMALL).fit(split, progress=False)


def test_a_warm_start_and_an_update_keep_features(split: pf.Split, tmp_path: Path) -> None:
    options = {"encoder_options": {"width": 8}, **SMALL}
    first = pf.PDRec("sasrec", **options).fit(split, progress=False)
    second = pf.PDRec("sasrec", **options, seed=1).fit(split, warm_start=first, progress=False)
    assert second.fitted_encoder().item_embedding.projection.shape == (8, 5)
    config = pf.RunConfig(encoder_options={"width": 8}, pdrec=pf.PDRecConfig(**SMALL))
    pf.run(split.data, config, out=tmp_path / "old", progress=False)
    result = pf.update(tmp_path / "old", split.data, out=tmp_path / "new", progress=False)
    assert result.model is not None
    assert result.model.fitted_encoder().item_embedding.projection.shape == (8, 5)


def test_features_of_other_items_and_bad_ones() -> None:
    data = pf.Interactions.from_arrays(["a", "a", "b"], [1, 2, 1], [0.0, 1.0, 0.0])
    with pytest.warns(UserWarning, match="1 of 2 items have no features"):
        more = data.with_item_features([1, 7], [[1.0, 0.0], [0.0, 2.0]])
    assert more.item_ids.tolist() == [1, 2, 7]
    assert more.item_features is not None
    assert more.item_features.tolist() == [[1, 0], [0, 0], [0, 2]]
    assert more.fingerprint() != data.fingerprint()
    assert replace(more, item_features=None).n_items == 3
    for ids in (np.array([1.0, 2.0, 9.0]), ["1", "2", "9"], [1, 2, 9]):
        assert data.with_item_features(ids, np.ones((3, 1))).item_ids.tolist() == [1, 2, 9]
    text = data.with_item_features([1, 2, "007"], np.ones((3, 1)))
    assert text.item_ids.tolist() == ["1", "2", "007"]
    for ids, features, text in [
        ([None, 2], [[1.0], [2.0]], "row 0.*missing"),
        (["", "2"], [[1.0], [2.0]], "missing"),
        ([8, 9], [[1.0], [2.0]], "none of 2 items with features"),
        ([], np.ones((0, 2)), "no item at all"),
        ([1, 1], [[1.0], [2.0]], "'1' has features twice"),
        ([1, 2], [[1.0]], "one row for each id"),
        ([1, 2], [1.0, 2.0], "one row for each id"),
        ([1, 2], [[1.0], [np.nan]], "item 2 has features that are not finite"),
    ]:
        with pytest.raises(pf.DataError, match=text):
            data.with_item_features(ids, features)
    with pytest.raises(ValueError, match="mix first"):
        pf.mix_domains(more, data)


def test_the_generators_records_do_not_depend_on_features() -> None:
    plain, featured = (pf.synthetic(50, 40, 3, n_features=n) for n in (0, 4))
    assert replace(featured, item_features=None).fingerprint() == plain.fingerprint()
    assert isinstance(featured.item_features, np.ndarray)
    assert issubclass(FeaturedEmbedding, nn.Embedding)
