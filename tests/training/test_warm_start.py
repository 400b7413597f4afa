"""Models that start from the weights of former ones, on data that has grown."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import pdrec_fast as pf

SHORT = {"epochs": 1, "lr": 1e-9, "lr_decay": 1.0}  # moves nothing that a test could see


@pytest.fixture(scope="module")
def data():
    """(old, new): new has every record of old and more, of new users and items as well."""
    made = pf.synthetic(n_users=80, n_items=150, seed=3)
    users, items = made.record_users, made.items
    kept = (users < 70) & (items < 130) & (np.arange(len(items)) % 11 > 0)
    names = np.array([f"i{item}" for item in range(150)], dtype=object)
    old = pf.Interactions.from_arrays(users[kept], names[items[kept]], made.timestamps[kept])
    # Its ids are text, and the new item "!" comes first: no index stays what it was.
    users, names = users.astype(str).astype(object), np.append(names[items], "!")
    times = np.append(made.timestamps, made.timestamps.max())
    return old, pf.Interactions.from_arrays(np.append(users, "0"), names, times)


def rows_by_id(ids, table):
    return dict(zip(map(str, ids), table.detach().numpy(), strict=True))


def check_rows(old, new, former, started, fresh):
    """Rows of known items are the former ones, those of new items as in a fresh model."""
    former, started, fresh = (
        rows_by_id(ids, table)
        for ids, table in ((old.item_ids, former), (new.item_ids, started), (new.item_ids, fresh))
    )
    assert former.keys() < started.keys()
    for name, row in started.items():
        np.testing.assert_allclose(row, former.get(name, fresh[name]), atol=1e-6)


def test_a_diffusion_model_starts_from_a_former_one_saved_and_loaded(data, tmp_path):
    old, new = data
    config = pf.DiffusionConfig(select_by="full", hidden=(8,), epochs=2, lr=0.01, weight_decay=0.0)
    pf.DiffRec(config).fit(pf.leave_one_out(old), progress=False).save(tmp_path / "old")
    former = pf.DiffRec.load(tmp_path / "old")
    assert former.item_ids.tolist() == old.item_ids.tolist()
    short = replace(config, **SHORT)
    started = pf.DiffRec(short).fit(new, warm_start=former, progress=False)
    fresh = pf.DiffRec(short).fit(new, progress=False)
    for name in ("item_in", "item_out", "item_bias"):
        tables = [getattr(model.denoiser, name) for model in (former, started, fresh)]
        check_rows(old, new, *tables)
    torch.testing.assert_close(
        started.denoiser.time_in.weight, former.denoiser.time_in.weight, atol=1e-6, rtol=0
    )
    assert started.trained_on == new.fingerprint()
    former.item_ids = None  # as older versions saved it
    with pytest.raises(ValueError, match=r"saved by an older version.*model\.item_ids = data"):
        pf.DiffRec(short).fit(new, warm_start=former, progress=False)
    with pytest.raises(TypeError, match="takes a fitted DiffRec, got a PDRec"):
        pf.DiffRec(short).fit(new, warm_start=pf.PDRec(), progress=False)


class OwnEncoder(nn.Module):
    """Its states are its items' embeddings, shifted by another tensor over the items."""

    def __init__(self, n_items):
        super().__init__()
        self.item_embedding, self.max_length = nn.Embedding(n_items, 8), 20
        self.shift = nn.Parameter(torch.randn(n_items, 1))

    def forward(self, batch):
        return self.item_embedding(batch.items) + self.shift[batch.items]


@pytest.mark.parametrize("encoder", ["sasrec", "gru4rec", OwnEncoder])
def test_an_encoder_starts_from_a_former_one(data, encoder):
    old, new = data
    options = {"width": 8} if isinstance(encoder, str) else None
    config = pf.PDRecConfig(modules=(), select_by="full", epochs=2, learn_temperature=True)
    former = pf.PDRec(encoder, config, encoder_options=options)
    former.fit(pf.leave_one_out(old), progress=False)
    short = replace(config, **SHORT)
    make = [pf.PDRec(encoder, short, encoder_options=options) for _ in range(2)]
    started = make[0].fit(new, warm_start=former, progress=False)
    fresh = make[1].fit(new, progress=False)
    for name, weights in started.encoder.state_dict().items():
        theirs, unlike = (m.encoder.state_dict()[name] for m in (former, fresh))
        if name in ("item_embedding.weight", "shift"):
            check_rows(old, new, theirs, weights, unlike)
        else:
            torch.testing.assert_close(weights, theirs, atol=1e-6, rtol=0)
    assert started.data is new
    assert "!" in started.recommend(["79"], new.n_items, filter_seen=False)[0]


def test_a_catalogue_of_the_same_size_and_the_model_itself(data):
    old, _ = data
    renamed = old.item_ids.copy()
    renamed[0] = "new"
    other = replace(old, item_ids=renamed)
    model = pf.PDRec(OwnEncoder, modules=(), epochs=2).fit(old, progress=False)
    fresh = pf.PDRec(OwnEncoder, modules=(), epochs=2).new_encoder(old.n_items)
    before = model.encoder.shift.detach().clone()
    model.config = replace(model.config, **SHORT)
    model.fit(other, warm_start=model, progress=False)
    after = model.encoder.shift.detach()
    torch.testing.assert_close(after[1:], before[1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(after[0], fresh.shift.detach()[0], atol=1e-6, rtol=0)


def test_wrong_starts_are_refused(data):
    old, new = data
    former = pf.PDRec(OwnEncoder, modules=(), epochs=1).fit(old, progress=False)
    with pytest.raises(ValueError, match="of another kind"):
        pf.PDRec("sasrec", modules=()).fit(new, warm_start=former, progress=False)
    with pytest.raises(TypeError, match="takes a fitted PDRec, got a str"):
        pf.PDRec("sasrec", modules=()).fit(new, warm_start="runs/old", progress=False)
    with pytest.raises(pf.NotFittedError):
        pf.PDRec("sasrec", modules=()).fit(new, warm_start=pf.PDRec(), progress=False)
    with pytest.raises(ValueError, match=r"epochs=9 must lie in 1 \.\. config\.epochs=3"):
        pf.PDRec("sasrec", modules=(), epochs=3).fit(new, epochs=9, progress=False)


def test_a_checkpoint_of_another_start_is_refused(data, tmp_path):
    old, new = data
    fit = {"checkpoint": tmp_path / "c", "progress": False}
    former = pf.PDRec(OwnEncoder, modules=(), epochs=1).fit(old, progress=False)
    pf.PDRec(OwnEncoder, modules=(), epochs=1).fit(new, warm_start=former, **fit)
    with pytest.raises(pf.CheckpointError, match=r"another run \(different warm start\)"):
        pf.PDRec(OwnEncoder, modules=(), epochs=1).fit(new, **fit)


def test_fewer_epochs_of_the_same_plan_are_its_beginning(data):
    old, _ = data
    seen = []

    def keep(history):
        if history.epochs == 2:
            seen.append(model.encoder.item_embedding.weight.detach().clone())

    settings = {"modules": (), "epochs": 4, "lr_schedule": "cosine"}
    model = pf.PDRec(OwnEncoder, **settings)
    model.fit(old, progress=False, on_epoch_end=keep)
    stopped = pf.PDRec(OwnEncoder, **settings).fit(old, epochs=2, progress=False)
    assert stopped.history.epochs == 2
    assert torch.equal(stopped.encoder.item_embedding.weight, seen[0])


def test_shares_that_are_given_are_taken(data):
    old, _ = data
    shares = {"popular": pf.Share(0.3)}
    guides = {"popular": pf.Popularity(old)}
    fit = {"guides": guides, "shares": shares, "progress": False}
    model = pf.PDRec(OwnEncoder, modules=("fusion",), epochs=1).fit(old, **fit)
    assert model.fusion.shares == shares
    histories = old.histories()[:3]
    fused, plain = model.scores(histories), model._encoder_logits(histories, None)
    torch.testing.assert_close(fused - plain, 0.3 * guides["popular"].scores(histories).float())
