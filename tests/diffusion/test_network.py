"""What CODIGEM and L-DiffRec share: fitting, files, continuing, recommending."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pdrec_fast import (
    CheckpointError,
    Codigem,
    DataError,
    DiffRec,
    Histories,
    Interactions,
    LatentDiffRec,
    NotFittedError,
    Popularity,
    evaluate,
    leave_one_out,
    synthetic,
)

SMALL = {
    Codigem: {"hidden": (16, 8), "epochs": 4, "lr": 3e-3, "batch_size": 32},
    LatentDiffRec: {
        "latent": 12,
        "hidden": (10,),
        "epochs": 4,
        "lr": 1e-2,
        "batch_size": 32,
        "categories": 3,
        "weighting": "rank",
    },
}
KINDS = pytest.mark.parametrize("kind", SMALL)


@pytest.fixture(scope="module")
def split():
    return leave_one_out(synthetic(60, 201, seed=1))


@pytest.fixture(scope="module")
def fitted(split):
    return {
        kind: kind(**settings, device="cpu").fit(split, progress=False)
        for kind, settings in SMALL.items()
    }


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Codigem, {"hidden": (64,), "epochs": 16, "lr": 3e-3, "batch_size": 64}),
        (LatentDiffRec, {"latent": 64, "epochs": 60, "lr": 1e-2, "batch_size": 64}),
        (LatentDiffRec, {"latent": 64, "epochs": 60, "lr": 1e-2, "weighting": "rank"}),
    ],
)
def test_it_recommends_better_than_popularity(kind, settings):
    split = leave_one_out(synthetic(400, 120, seed=0))
    model = kind(**settings, patience=50, device="cpu").fit(split, progress=False)

    def figure(scorer):
        found = evaluate(scorer, split, on=["test"], protocols=["full"])
        return found["full"]["test"]["ndcg@10"]

    assert figure(model) > 1.5 * figure(Popularity(split.train))


@KINDS
def test_it_comes_back_from_disk(kind, fitted, split, tmp_path):
    model = fitted[kind]
    model.save(tmp_path / "model")
    again = kind.load(tmp_path / "model", device="cpu")
    assert (again.config, again.trained_on) == (model.config, split.train.fingerprint())
    assert again.history.losses == model.history.losses
    histories = split.test.histories
    assert torch.equal(again.scores(histories), model.scores(histories))
    assert again.recommend(split.data.user_ids[:3], 4)[0].shape == (3, 4)
    with pytest.raises(CheckpointError, match=f"holds a {kind.KIND}, not a diffusion model"):
        DiffRec.load(tmp_path / "model")


@KINDS
def test_scores_of_some_items_are_those_of_all(kind, fitted, split):
    histories = split.test.histories[:5]
    scores = fitted[kind].scores(histories)
    assert (scores.shape, scores.dtype) == ((5, 201), torch.float32)
    items = torch.tensor([[3, 60, 0], [1, 1, 2], [9, 8, 7], [5, 4, 3], [0, 1, 2]])
    some = fitted[kind].scores(histories, items)
    torch.testing.assert_close(some, scores.gather(1, items), rtol=1e-5, atol=1e-6)


@KINDS
def test_items_without_training_records_do_not_count(kind, fitted, split):
    """Histories score the same with and without them, and an empty one has scores."""
    model = fitted[kind]
    cold = np.flatnonzero(~model.trained_items)
    assert len(cold)
    warm = np.flatnonzero(model.trained_items)[:3]
    items = np.array([*warm, *warm[:2], cold[0], warm[2]], dtype=np.int32)
    histories = Histories(items, None, np.zeros(2), np.array([0, 3]), np.array([3, 7]), 201)
    found = model.scores(histories)
    torch.testing.assert_close(found[0], found[1])
    nothing = split.test.histories[:2].only(np.zeros(201, dtype=bool))
    assert model.scores(nothing).isfinite().all()


@KINDS
def test_a_killed_training_ends_bit_equal(kind, split, tmp_path):
    settings = SMALL[kind] | {"patience": 50}

    model = kind(**settings, device="cpu")
    losses, calls = model.losses, []

    def until_killed(batch):
        calls.append(batch.epoch)
        if batch.epoch == 2:
            raise KeyboardInterrupt
        return losses(batch)

    model.losses = until_killed
    with pytest.raises(KeyboardInterrupt):
        model.fit(split, checkpoint=tmp_path / "checkpoint", progress=False)
    with pytest.raises(NotFittedError):
        model.scores(split.test.histories)
    resumed = kind(**settings, device="cpu")
    counted, seen = resumed.losses, []
    resumed.losses = lambda batch: seen.append(batch.epoch) or counted(batch)
    resumed.fit(split, checkpoint=tmp_path / "checkpoint", progress=False)
    assert min(seen) > 0
    whole = kind(**settings, device="cpu").fit(split, progress=False)
    assert resumed.history.losses == whole.history.losses
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
    other = kind(**(settings | {"lr": 0.5}), device="cpu")
    with pytest.raises(CheckpointError, match="different config"):
        other.fit(split, checkpoint=tmp_path / "checkpoint", progress=False)


@KINDS
def test_a_seed_is_a_model_whatever_the_caller_drew(kind, fitted, split):
    torch.manual_seed(77)
    before = torch.get_rng_state()
    again = kind(**SMALL[kind], device="cpu").fit(split, progress=False)
    assert torch.equal(before, torch.get_rng_state())
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(tensor, fitted[kind].network.state_dict()[name]), name
    other = kind(**SMALL[kind], seed=1, device="cpu").fit(split, progress=False)
    assert other.history.losses != again.history.losses


@KINDS
def test_it_fits_plain_interactions_for_all_epochs(kind, split):
    model = kind(**SMALL[kind], device="cpu").fit(split.train, progress=False)
    assert len(model.history.losses) == 4
    assert not model.history.validations


@KINDS
def test_similar_items_are_not_the_item_itself(kind, fitted, split):
    asked = split.data.item_ids[np.flatnonzero(fitted[kind].trained_items)[:2]]
    found, cosines = fitted[kind].similar_items(asked, 5)
    assert not (found == asked[:, None]).any()
    assert (np.diff(cosines, axis=1) <= 0).all()


@KINDS
def test_what_cannot_be_done(kind, fitted, split, tmp_path):
    fresh = kind(device="cpu")
    for asked in (fresh.contents, lambda: fresh.scores(split.test.histories), fresh.interactions):
        with pytest.raises(NotFittedError, match=rf"{kind.__name__}\.load"):
            asked()
    other = synthetic(9, 202, seed=0)
    with pytest.raises(ValueError, match="index both by the same catalogue"):
        fitted[kind].scores(other.histories())
    nobody = Interactions(
        np.zeros(2, dtype=np.int64), np.zeros(0, np.int32), None, np.arange(1), np.arange(30)
    )
    with pytest.raises(DataError, match="nothing to learn"):
        kind(device="cpu").fit(nobody)
    as_guide = kind.from_contents(fitted[kind].contents(), "somewhere", device="cpu")
    with pytest.raises(NotFittedError, match=r"set model\.data"):
        as_guide.interactions()
    meta, files = fitted[kind].contents()
    damaged = meta | {"config": replace(fitted[kind].config, hidden=(3,)).__dict__}
    with pytest.raises(CheckpointError, match="somewhere: weights do not fit"):
        kind.from_contents((damaged, files), "somewhere", device="cpu")


@KINDS
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.0),
        ("weight_decay", -1.0),
        ("batch_size", 0),
        ("epochs", 0),
        ("epochs", 1.5),
        ("patience", 0),
        ("select_by", "auc"),
        ("validation_users", -1),
        ("seed", -1),
        ("hidden", ()),
        ("hidden", (0,)),
        ("steps", 0),
    ],
)
def test_settings_out_of_range(kind, name, value):
    with pytest.raises(ValueError, match=name):
        kind(**{name: value})


@KINDS
def test_every_epoch_is_told_and_there_may_be_fewer(kind, split):
    told = []
    model = kind(**SMALL[kind], device="cpu")
    model.fit(split.train, epochs=2, progress=False, on_epoch_end=told.append)
    assert len(told) == model.history.epochs == 2
    with pytest.raises(ValueError, match=r"warm_start: .* starts from fresh weights alone"):
        kind(**SMALL[kind], device="cpu").fit(split, warm_start=model, progress=False)
