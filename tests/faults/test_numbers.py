"""Numbers that are none: no ranking, no saved model and no training goes on with them."""

import dataclasses
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pdrec_fast as pf
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.evaluation import Evaluator
from pdrec_fast.fitting import bundle

DATA = pf.synthetic(n_users=60, n_items=150, seed=1)
SPLIT = pf.leave_one_out(DATA)
SMALL: dict[str, Any] = {"epochs": 2, "select_by": "full", "device": "cpu"}
BAD = [math.nan, math.inf, -math.inf]


def encoder(kind: Any = "sasrec", **settings: Any) -> pf.PDRec:
    options = {"width": 8, "max_length": 10} if kind == "sasrec" else None
    return pf.PDRec(kind, encoder_options=options, **SMALL | {"modules": ()} | settings)


def diffusion(**settings: Any) -> pf.DiffRec:
    return pf.DiffRec(**SMALL | {"hidden": (8,), "precision": "fp32"} | settings)


@pytest.fixture
def fitted(request: pytest.FixtureRequest) -> tuple[Any, torch.Tensor]:
    """A fitted model, and its weights of the items."""
    make = {"encoder": encoder, "diffusion": diffusion}[request.param]
    model = make(epochs=1).fit(DATA, progress=False)
    table = model.encoder.item_embedding.weight if make is encoder else model.denoiser.item_out
    return model, table.detach()


class Table:
    def __init__(self, value: float = 0.0, user: int = 0, item: int = 0) -> None:
        self.table = torch.rand(60, 150, generator=torch.Generator().manual_seed(0))
        self.table[user, item] = value

    def scores(self, histories: Any, items: torch.Tensor | None = None) -> torch.Tensor:
        rows = self.table[torch.from_numpy(histories.users)]
        return rows if items is None else rows.gather(1, items)


class Own(nn.Module):
    """An encoder whose states, losses or buffers may be none."""

    max_length = 10

    def __init__(self, n_items: int, bad: float = math.nan, mask: float = 0.0) -> None:
        super().__init__()
        self.item_embedding, self.linear = nn.Embedding(n_items, 8), nn.Linear(8, 8)
        self.bad, self.in_training, self.in_scores = bad, False, False
        self.register_buffer("mask", torch.full((2, 2), mask))

    def forward(self, sequences: Any) -> torch.Tensor:
        states = self.linear(self.item_embedding(sequences.items.long()))
        if self.in_training if self.training else self.in_scores:
            states = torch.cat([states[:-1], states[-1:] * self.bad])
        return states


def own(**changes: Any) -> Callable[[int], nn.Module]:
    def make(n_items: int) -> nn.Module:
        module = Own(n_items, **{k: v for k, v in changes.items() if k in ("bad", "mask")})
        for name in changes.keys() - {"bad", "mask"}:
            setattr(module, name, changes[name])
        return module

    return make


@pytest.mark.parametrize("fitted", ["encoder", "diffusion"], indirect=True)
@pytest.mark.parametrize("bad", BAD)
def test_a_model_of_bad_weights_ranks_nothing_and_is_not_saved(
    fitted: tuple[Any, torch.Tensor], bad: float, tmp_path: Path
) -> None:
    model, table = fitted
    model.save(tmp_path / "model")
    sound = model.fingerprint()
    table[4] = bad
    user, item = DATA.user_ids[0], DATA.item_ids[4]
    of_the_model = rf"{type(model).__name__}: the scores for user '\w+' are NaN"
    if math.isnan(bad) or model.KIND == "PDRec model":  # else scores are infinite
        for ask in (
            lambda: model.recommend(DATA.user_ids, 4),
            lambda: model.scores_for([(user, item)]),
            lambda: pf.evaluate(model, SPLIT),
            lambda: pf.Preferences.infer(model, DATA, n_draws=4, progress=False),
        ):
            with pytest.raises(pf.NonFiniteScoresError, match=of_the_model):
                ask()
    with pytest.raises(pf.NonFiniteScoresError):
        model.similar_items([item], 3)
    with pytest.raises(pf.NonFiniteLossError, match=r"weights item_\S+ are NaN or infinite"):
        model.save(tmp_path / "model")
    if model.KIND == "PDRec model":
        with pytest.raises(pf.NonFiniteLossError, match="neither saved nor exported"):
            model.export(tmp_path / "export", onnx=False)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert type(model).load(tmp_path / "model", device="cpu").fingerprint() == sound


@pytest.mark.parametrize("block_size", [None, 7])
@pytest.mark.parametrize("protocol", ["paper", "full"])
def test_the_user_of_bad_scores_is_named(protocol: str, block_size: int | None) -> None:
    user = 33
    scorer = Table(math.nan, user)
    scorer.table[user] = math.nan
    evaluator = Evaluator(SPLIT, block_size=block_size)
    with pytest.raises(pf.NonFiniteScoresError) as error:
        evaluator.ranks(scorer, protocol)
    assert f"Table: the scores for user '{DATA.user_ids[user]}'" in str(error.value)
    popularity = pf.Popularity(SPLIT.train)
    popularity.item_scores = np.where(np.arange(150) == 3, math.nan, popularity.item_scores)
    with pytest.raises(pf.NonFiniteScoresError, match="Popularity"):
        evaluator.ranks(popularity, "full")


def test_infinite_scores_rank_first_and_last() -> None:
    """So that a scorer of one's own can pin an item or hide it."""
    target = int(SPLIT.test.targets[0])
    user = int(SPLIT.test.users[0])
    for value, place in ((math.inf, 0), (-math.inf, 1)):
        ranks = Evaluator(SPLIT).ranks(Table(value, user, target), "full", "test")
        assert ranks.greater[0] == place * ranks.candidates[0]


def test_equal_scores_are_ties_that_are_counted() -> None:
    class Nothing(Table):
        def scores(self, histories: Any, items: torch.Tensor | None = None) -> torch.Tensor:
            return super().scores(histories, items) * 0

    ranks = Evaluator(SPLIT).ranks(Nothing(), "full", "test")
    assert (ranks.equal == ranks.candidates).all()
    assert pf.evaluate(Nothing(), SPLIT)["full"]["test"]["auc"] == 0.5
    found = pf.Preferences.infer(Nothing(), SPLIT.train, top_m=3, n_draws=4, progress=False)
    unseen = np.setdiff1d(np.arange(150), SPLIT.train.items[: SPLIT.train.indptr[1]])
    assert found.top_items[0].tolist() == unseen[:3].tolist()  # ties to the lower item
    assert np.isfinite(found.hbr_weights(SPLIT.train, pf.PDRecConfig())).all()


@pytest.mark.parametrize("bad", BAD)
def test_bad_preferences_are_named_before_hbr_weighs_by_them(bad: float, tmp_path: Path) -> None:
    train = SPLIT.train
    user = int(np.argmax(np.diff(train.indptr)))
    record = int(train.indptr[user + 1]) - 2
    found = pf.Preferences.infer(Table(), train, top_m=5, n_draws=4, progress=False)
    scores = np.where(np.arange(train.n_records) == record, bad, found.observed_scores)
    found = dataclasses.replace(found, observed_scores=scores.astype(np.float32))
    where = f"user '{DATA.user_ids[user]}' for item '{DATA.item_ids[train.items[record]]}'"
    with pytest.raises(pf.NonFiniteScoresError, match=f"{where} is {bad}, which HBR cannot weigh"):
        encoder(modules=("hbr",)).fit(SPLIT, found, progress=False)
    if math.isnan(bad):
        with pytest.raises(pf.NonFiniteLossError, match="observed_scores in arrays holds NaN"):
            found.save(tmp_path / "preferences")
        assert not list(tmp_path.iterdir())


def test_a_saved_model_of_nan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder(epochs=1).fit(DATA, progress=False)
    assert model.encoder is not None
    with torch.no_grad():
        next(model.encoder.parameters())[0] = math.nan
    with monkeypatch.context() as patch:  # as an older version would
        patch.setattr("pdrec_fast.training.pdrec.check_parameters", lambda *_: None)
        patch.setattr(bundle, "_first_nan", lambda _: "")
        model.save(tmp_path / "model")
    with pytest.raises(pf.CheckpointError, match=r"model: \S+ in weights holds NaN; .*train it"):
        pf.PDRec.load(tmp_path / "model")


@pytest.mark.parametrize("place", ["in_training", "in_scores"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_encoder_of_ones_own_that_gives_none(bad: float, place: str, tmp_path: Path) -> None:
    words = {"in_training": "the loss became nan at epoch 1", "in_scores": "scores are NaN in the"}
    with pytest.raises(pf.NonFiniteLossError, match=f"make: {words[place]}.*no checkpoint was"):
        encoder(own(bad=bad, **{place: True})).fit(
            SPLIT, progress=False, checkpoint=tmp_path / "checkpoint"
        )
    assert not list(tmp_path.iterdir())


def test_a_mask_of_infinity_is_no_weight_that_diverged(tmp_path: Path) -> None:
    model = encoder(own(mask=-math.inf)).fit(SPLIT, progress=False)
    model.save(tmp_path / "model")
    loaded = pf.PDRec.load(tmp_path / "model", encoder=own())
    assert loaded.fingerprint() == model.fingerprint()
    with pytest.raises(pf.NonFiniteLossError, match="mask are NaN before the first step"):
        encoder(own(mask=math.nan)).fit(SPLIT, progress=False)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", ["item_embedding", "linear"])
def test_weights_that_turn_bad_between_epochs(where: str, bad: float, tmp_path: Path) -> None:
    model = encoder(own(), epochs=4)

    def spoil(history: Any) -> None:
        if history.epochs == 2:
            getattr(model.encoder, where).weight.data[:, 3] = bad

    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(pf.NonFiniteLossError, match=r"epoch 3.*after epoch 1 is kept in "):
        model.fit(SPLIT, progress=False, checkpoint=checkpoint, on_epoch_end=spoil)
    _, files = bundle.read_bundle(checkpoint, "training checkpoint")
    assert all(weight.isfinite().all() for weight in files["weights"].values())


@pytest.mark.parametrize("kind", [*sorted(ENCODERS), "diffusion", "multinomial", "two layers"])
def test_no_learning_rate_makes_a_model_of_none(kind: str, tmp_path: Path) -> None:
    """Either the training ends with a line that says where, or all weights are numbers."""
    changes: dict[str, Any] = {"multinomial": {"likelihood": "multinomial"}}
    changes["two layers"] = {"hidden": (8, 8)}
    make = encoder if kind in ENCODERS else diffusion
    arguments = (kind,) if kind in ENCODERS else ()
    for lr in (10.0, 1e3):
        model: Any = make(*arguments, lr=lr, **changes.get(kind, {}))
        with suppress(pf.NonFiniteLossError):
            model.fit(SPLIT, progress=False)
            model.save(tmp_path / f"{lr}")
            assert np.isfinite(model.recommend(DATA.user_ids, 3).scores).all()
    with pytest.raises(pf.NonFiniteLossError, match="Lower the learning rate"):
        make(*arguments, lr=1e25, **changes.get(kind, {})).fit(SPLIT, progress=False)


def test_moments_that_overflow_end_the_training() -> None:
    """With them Adam moves nothing any more, and nothing else would tell."""
    model = encoder(own(), epochs=2)
    train = model.training_task

    def task(*arguments: Any) -> Any:
        made = train(*arguments)
        state = made.optimizer.state[made.encoder.linear.weight]
        state["exp_avg_sq"].fill_(math.inf)
        return made

    model.training_task = task  # type: ignore[method-assign]
    with pytest.raises(pf.NonFiniteLossError, match=r"exp_avg_sq\.linear\.weight became NaN or"):
        model.fit(SPLIT, progress=False)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e31, 1e-31, 0.0, -1.0])
@pytest.mark.parametrize(
    "key",
    [
        *("pdrec.temperature", "pdrec.lr", "pdrec.hbr_rescale", "pdrec.lr_decay"),
        *("diffusion.lr", "diffusion.half_life", "linear.ridge", "codigem.lr", "latent.lr"),
    ],
)
def test_settings_that_float32_loses(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{key.partition('.')[2]} must .*, got"):
        pf.with_settings(pf.RunConfig.from_preset("toy"), {key: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e31])
@pytest.mark.parametrize(
    "key", ["pdrec.weight_decay", "pdrec.clip_norm", "pdrec.dpa_weight", "diffusion.w_max"]
)
def test_settings_that_may_be_zero(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key.partition(".")[2]):
        pf.with_settings(pf.RunConfig.from_preset("toy"), {key: value})


@pytest.mark.parametrize("bad", BAD)
def test_what_is_read_names_the_place(bad: float) -> None:
    users, items = DATA.user_ids[DATA.record_users], DATA.item_ids[DATA.items]
    assert DATA.timestamps is not None
    spoiled = np.where(np.arange(len(users)) == 7, bad, DATA.timestamps)
    with pytest.raises(pf.DataError, match=r"row 7 .*'timestamps': timestamp .* not a finite"):
        pf.Interactions.from_arrays(users, items, spoiled)
    frame = {"user_id": users, "item_id": items, "timestamp": DATA.timestamps, "rating": spoiled}
    with pytest.raises(pf.DataError, match=r"row 7 .*'rating': rating .* not a finite"):
        pf.Interactions.from_frame(frame, min_rating=1)
    with pytest.raises(pf.DataError, match="timestamps must be finite"):
        pf.Interactions(DATA.indptr, DATA.items, spoiled, DATA.user_ids, DATA.item_ids)
    features = np.ones((150, 3), np.float32)
    features[4, 1] = bad
    with pytest.raises(pf.DataError, match=f"item {DATA.item_ids[4]} has features that are not"):
        DATA.with_item_features(DATA.item_ids, features)
    model = encoder(epochs=1).fit(DATA, progress=False)
    with pytest.raises(ValueError, match=r"times: .* not a finite number"):
        model.recommend(history=DATA.item_ids[:2], times=[1.0, bad], k=3)


def interactions(rows: list[list[int]]) -> pf.Interactions:
    users = [f"u{user}" for user, row in enumerate(rows) for _ in row]
    items = [item for row in rows for item in row]
    return pf.Interactions.from_arrays(users, items, np.arange(len(users), dtype=float))


@pytest.mark.parametrize(
    "rows",
    [
        [[user % 7] for user in range(10)] + [[0, 1, 2, user % 4 + 3] for user in range(20)],
        [list(range(5 * user, 5 * user + 5)) for user in range(30)],
        [list(range(9))],
        [list(range(5)) for _ in range(9)],
        [list(range(20_000)), *([user, user + 1, user + 2] for user in range(20))],
    ],
    ids=["users of one item", "items of one user", "one user", "all seen", "a long row"],
)
@pytest.mark.parametrize("kind", ["encoder", "diffusion", "linear", "item-knn"])
def test_odd_shapes_of_data(kind: str, rows: list[list[int]]) -> None:
    data = interactions(rows)
    split = pf.leave_one_out(data)
    make = {
        "encoder": lambda: encoder(epochs=1).fit(split, progress=False),
        "diffusion": lambda: diffusion(epochs=1).fit(split, progress=False),
        "linear": lambda: pf.LinearDenoiser(max_size=64).fit(split),
        "item-knn": lambda: pf.ItemKNN().fit(split),
    }
    model: Any = make[kind]()
    for metrics in pf.evaluate(model, split, protocols=["full"])["full"].values():
        assert all(0 <= value <= 1 for value in metrics.values())
    assert torch.isfinite(model.scores(split.train.histories())).all()
    if kind in ("encoder", "diffusion"):
        assert not np.isnan(model.recommend(["u0"], 2).scores).any()


@pytest.mark.parametrize("rows", [[[0], [1]], [[1, 1, 1]] * 3])
def test_data_of_which_nothing_can_be_learned(rows: list[list[int]]) -> None:
    with pytest.raises(pf.DataError, match=r"nothing to evaluate|there is no next item to learn"):
        encoder(epochs=1).fit(pf.leave_one_out(interactions(rows)), progress=False)


def test_nothing_at_all(tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("user_id,item_id\n")
    for read in (
        lambda: pf.Interactions.from_arrays([], [], []),
        lambda: pf.Interactions.from_frame({"user_id": [], "item_id": []}),
        lambda: pf.Interactions.from_file(tmp_path / "none.csv"),
    ):
        with pytest.raises(pf.DataError, match="no records, only column names"):
            read()
    model = encoder(epochs=1).fit(DATA, progress=False)
    assert model.recommend([], 2).scores.shape == (0, 2)
    assert model.scores_for([]).shape == (0,)
    assert model.similar_items([], 2)[0].shape == (0, 2)
    assert (model.recommend(DATA.user_ids[:1], 2, items=[]).scores == -np.inf).all()
