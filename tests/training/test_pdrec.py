from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pdrec_fast.data import Histories, Interactions, Split, leave_one_out, synthetic
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders import SASRec
from pdrec_fast.errors import CheckpointError, DataError, NonFiniteLossError
from pdrec_fast.evaluation import evaluate
from pdrec_fast.fitting.bundle import read_bundle, write_bundle
from pdrec_fast.preferences import Preferences
from pdrec_fast.settings_format import FORMAT
from pdrec_fast.training import MODULES, PDRec, PDRecConfig
from pdrec_fast.training.batches import Batch
from pdrec_fast.training.task import PDRecTask

SMALL: dict[str, Any] = {"encoder_options": {"width": 8, "blocks": 1, "max_length": 12}}
SUBSETS = list(chain.from_iterable(combinations(MODULES, size) for size in range(4)))


class TableScorer:
    def __init__(self, n_users: int, n_items: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(n_users, n_items, generator=generator)

    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        return self.table[torch.from_numpy(histories.users)]


class Popularity:
    def __init__(self, train: Interactions) -> None:
        self.counts = torch.bincount(torch.tensor(train.items), minlength=train.n_items).float()

    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        scores = self.counts.expand(len(histories), -1)
        return scores if items is None else scores.gather(1, items)


class MeanEncoder(nn.Module):
    """A user's own encoder: the mean of the items so far."""

    max_length = 10

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.item_embedding = nn.Embedding(n_items, 6)

    def forward(self, batch: PackedSequences) -> torch.Tensor:
        x = self.item_embedding(batch.items)
        parts = [
            part.cumsum(0) / torch.arange(1, len(part) + 1)[:, None]
            for part in x.split(batch.lengths.tolist())
        ]
        return torch.cat(parts)


def preferences_for(train: Interactions, seed: int = 0) -> Preferences:
    scorer = TableScorer(train.n_users, train.n_items, seed)
    return Preferences.infer(scorer, train, top_m=8, n_draws=32, progress=False)


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic(90, 320, seed=1))


@pytest.fixture(scope="module")
def preferences(split: Split) -> Preferences:
    return preferences_for(split.train)


def fitted(
    data: Split | Interactions, preferences: Preferences | None = None, **settings: Any
) -> PDRec:
    settings = {"epochs": 2, "modules": (), **SMALL, **settings}
    return PDRec("sasrec", **settings).fit(data, preferences, progress=False)


def same_weights(left: PDRec, right: PDRec) -> bool:
    ours, theirs = left.fitted_encoder().state_dict(), right.fitted_encoder().state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# --- fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("modules", SUBSETS)
def test_every_subset_of_modules_trains(
    split: Split, preferences: Preferences, modules: tuple[str, ...]
) -> None:
    model = fitted(split, preferences, modules=modules, epochs=4)
    assert model.name == "+".join(["sasrec", *modules])
    assert model.history is not None
    assert model.history.epochs == 4
    assert len(model.history.validations) == 4
    assert model.history.losses[-1] < model.history.losses[0]


def test_training_beats_popularity() -> None:
    split = leave_one_out(synthetic(300, 200, seed=0, noise=0.05))
    options = {"width": 16, "blocks": 1, "max_length": 20}
    settings = {"epochs": 10, "batch_size": 64, "lr": 1e-2, "select_by": "full"}
    model = PDRec("sasrec", modules=(), encoder_options=options, **settings)
    model.fit(split, progress=False)

    def ndcg(scorer: Any) -> float:
        return evaluate(scorer, split, on=["test"], protocols=["full"])["full"]["test"]["ndcg@10"]

    assert ndcg(model) > 2 * ndcg(Popularity(split.train))


def test_the_seed_decides_the_weights(split: Split, preferences: Preferences) -> None:
    first, again, other = (
        fitted(split, preferences, modules=MODULES, seed=seed) for seed in (3, 3, 4)
    )
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_softmax_trains_and_repeats_bit_equal(split: Split, preferences: Preferences) -> None:
    settings = {"modules": MODULES, "loss": "softmax", "random_negatives": 7, "epochs": 4}
    first, again = (fitted(split, preferences, **settings) for _ in range(2))
    assert same_weights(first, again)
    assert first.history is not None
    assert first.history.losses[-1] < first.history.losses[0]
    assert not same_weights(first, fitted(split, preferences, **{**settings, "loss": "bce"}))


def test_the_seed_decides_order_and_dropout(
    split: Split, preferences: Preferences, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(self: PDRecTask, batch: Batch) -> torch.Tensor:
        key = batch.sequences.dropout_key
        assert key is not None
        seen.append((key.users.tolist(), (key.seed, key.epoch)))
        return sum(parameter.sum() for parameter in self.encoder.parameters())

    monkeypatch.setattr(PDRecTask, "batch_loss", spy)
    for seed in (0, 0, 1):
        fitted(split, preferences, modules=MODULES, seed=seed, epochs=1)
    first, again, other = np.array_split(np.array(seen, dtype=object), 3)
    assert (first == again).all()
    assert (first != other).all()


def test_the_callback_may_go_by_its_former_name(split: Split) -> None:
    seen: list[int] = []
    model = PDRec("sasrec", modules=(), epochs=2)
    with pytest.warns(DeprecationWarning, match=r"fit\(watch=...\) is called on_epoch_end= now"):
        model.fit(split, progress=False, watch=lambda history: seen.append(history.epochs))
    assert seen == [1, 2]


def test_a_keyword_is_not_given_under_both_its_names(split):
    model = PDRec("sasrec", modules=(), epochs=1, encoder_options={"width": 8})
    with pytest.raises(TypeError, match="both on_epoch_end= and watch=, its former name"):
        model.fit(split, progress=False, watch=None, on_epoch_end=print)


def test_a_failed_fit_leaves_no_model(split: Split) -> None:
    model = PDRec("sasrec", modules=(), lr=1e30, epochs=5)
    with pytest.raises(NonFiniteLossError, match=r"sasrec: .* epoch 1"):
        model.fit(split, progress=False)
    with pytest.raises(RuntimeError, match="not fitted"):
        model.recommend([1])


def test_fit_leaves_the_global_generator_alone(split: Split) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fitted(split)
    assert torch.equal(torch.rand(3), expected)


def test_plain_interactions_train_all_epochs_without_validation(split: Split) -> None:
    model = fitted(split.data, epochs=3, patience=1)
    assert model.history is not None
    assert (model.history.epochs, model.history.validations) == (3, {})


def test_the_best_epoch_is_kept(split: Split) -> None:
    model = fitted(split, epochs=6, lr=0.05)
    assert model.history is not None
    summary = evaluate(model, split, on=["valid"], protocols=["paper"])["paper"]["valid"]
    best = max(model.history.validations.values())
    assert summary["ndcg@10"] == pytest.approx(best, rel=1e-9)
    assert model.history.best_value == best


def test_preferences_are_needed_by_modules(split: Split) -> None:
    with pytest.raises(ValueError, match=r"hbr.*need preferences"):
        fitted(split, modules=("hbr",))


def test_preferences_of_other_data_are_refused(split: Split, preferences: Preferences) -> None:
    with pytest.raises(ValueError, match="other interactions"):
        fitted(split.data, preferences, modules=("nns",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "bert"}, r"encoder='bert'.*sasrec"),
        ({"encoder": MeanEncoder, "encoder_options": {"width": 3}}, "encoder_options"),
        ({"epochs": 3, "modules": ("dpq",)}, "dpq"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PDRec(**options)


def test_settings_override_the_config() -> None:
    model = PDRec("sasrec", PDRecConfig(lr=0.1, seed=5), seed=6)
    assert (model.config.lr, model.config.seed) == (0.1, 6)


def test_own_encoders_are_checked(split: Split) -> None:
    def padded(n_items: int) -> nn.Module:
        return MeanEncoder(n_items + 1)

    def nameless(n_items: int) -> nn.Module:
        return nn.Linear(n_items, 2)

    with pytest.raises(ValueError, match=r"'padded'.*321 rows.*320 items"):
        PDRec(padded, modules=()).fit(split, progress=False)
    with pytest.raises(ValueError, match=r"'nameless'.*Linear.*item_embedding"):
        PDRec(nameless, modules=()).fit(split, progress=False)


def test_nothing_works_before_fit(split: Split, tmp_path: Path) -> None:
    model = PDRec("sasrec")
    calls = (
        lambda: model.recommend([1]),
        lambda: model.save(tmp_path / "model"),
        lambda: model.scores(split.test.histories),
    )
    for call in calls:
        with pytest.raises(RuntimeError, match="not fitted"):
            call()


# --- checkpoints -------------------------------------------------------------------------------


def test_a_finished_checkpoint_gives_the_same_model(split: Split, tmp_path: Path) -> None:
    model = PDRec("sasrec", modules=(), epochs=2, **SMALL)
    model.fit(split, checkpoint=tmp_path / "run", progress=False)
    again = PDRec("sasrec", modules=(), epochs=2, **SMALL)
    again.fit(split, checkpoint=tmp_path / "run", progress=False)
    assert same_weights(model, again)
    assert again.history == model.history


@pytest.mark.parametrize("difference", ["preferences", "validation data", "config", "encoder"])
def test_a_checkpoint_of_another_run_is_refused(
    split: Split, preferences: Preferences, tmp_path: Path, difference: str
) -> None:
    settings = {"modules": ("hbr",), "epochs": 1, **SMALL}
    PDRec("sasrec", **settings).fit(split, preferences, checkpoint=tmp_path / "run", progress=False)
    data: Split | Interactions = split.train if difference == "validation data" else split
    if difference == "preferences":
        preferences = preferences_for(split.train, seed=9)
    if difference == "config":
        settings["lr"] = 0.1
    encoder: Any = "sasrec"
    if difference == "encoder":
        encoder, settings["encoder_options"] = MeanEncoder, None
    with pytest.raises(CheckpointError, match=difference):
        PDRec(encoder, **settings).fit(
            data, preferences, checkpoint=tmp_path / "run", progress=False
        )


def make_older(description: dict[str, Any], name: str) -> None:
    """As it was written before there was the setting ``name``, and by version 0.1.0."""
    assert description.pop("format") == FORMAT
    del description["config"][name]
    description["encoder_options"] = SMALL["encoder_options"]


def test_what_a_newer_version_wrote_is_refused(split: Split, tmp_path: Path) -> None:
    fitted(split).save(tmp_path / "model")
    meta, files = read_bundle(tmp_path / "model", "PDRec model")
    write_bundle(tmp_path / "newer", "PDRec model", meta | {"format": FORMAT + 1}, files)
    with pytest.raises(CheckpointError, match=rf"newer: its settings have format {FORMAT + 1}"):
        PDRec.load(tmp_path / "newer")


@pytest.mark.parametrize(
    ("name", "other"), [("loss", "softmax"), ("dpa_start", 1), ("skip_cold_items", True)]
)
def test_what_is_older_than_a_choice_still_loads(
    split: Split, tmp_path: Path, name: str, other: Any
) -> None:
    settings = {"modules": (), "epochs": 2, **SMALL}
    model = PDRec("sasrec", **settings)
    model.fit(split, checkpoint=tmp_path / "run", progress=False).save(tmp_path / "model")
    meta, files = read_bundle(tmp_path / "model", "PDRec model")
    make_older(meta, name)
    write_bundle(tmp_path / "older", "PDRec model", meta, files)
    loaded = PDRec.load(tmp_path / "older")
    assert (loaded.config, loaded.encoder_options) == (model.config, model.encoder_options)
    meta, files = read_bundle(tmp_path / "run", "training checkpoint")
    make_older(meta["identity"], name)
    write_bundle(tmp_path / "run", "training checkpoint", meta, files)
    again = PDRec("sasrec", **settings).fit(split, checkpoint=tmp_path / "run", progress=False)
    assert again.history == model.history  # and nothing was trained
    with pytest.raises(CheckpointError, match="different config"):
        PDRec("sasrec", **{name: other}, **settings).fit(
            split, checkpoint=tmp_path / "run", progress=False
        )


# --- scores and recommend ----------------------------------------------------------------------


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_scores_of_chosen_items_are_those_of_the_corpus(split: Split, similarity: str) -> None:
    model = fitted(split, similarity=similarity)
    histories = split.test.histories
    scores = model.scores(histories)
    assert scores.shape == (len(histories), 320)
    assert scores.dtype == torch.float32
    items = torch.randint(320, (len(histories), 7), generator=torch.Generator().manual_seed(0))
    chosen = model.scores(histories, items)
    torch.testing.assert_close(chosen, scores.gather(1, items), rtol=1e-5, atol=1e-5)


def test_cold_items_are_skipped_in_histories_where_wanted(split: Split, tmp_path: Path) -> None:
    model = fitted(split)
    test, trained = split.test.histories, np.unique(split.train.items)
    cold = ~np.isin(test.items[test.stops - 1], trained)  # the last item of the history
    assert 0 < cold.sum() < len(cold)
    as_is = model.scores(test)
    skipping = PDRec("sasrec", replace(model.config, skip_cold_items=True), **SMALL)
    skipping.fit(split, progress=False).save(tmp_path)
    for name, weight in model.fitted_encoder().state_dict().items():
        assert torch.equal(weight, skipping.fitted_encoder().state_dict()[name])  # trains alike
    for same in (skipping, PDRec.load(tmp_path, device="cpu")):
        found = same.scores(test)
        assert torch.equal(found[~cold], as_is[~cold])
        before = replace(test, stops=test.stops - 1)
        assert torch.equal(found[cold], model.scores(before)[cold])
        assert not torch.equal(found[cold], as_is[cold])
        assert torch.equal(same.scores(split.valid.histories), model.scores(split.valid.histories))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_prepared_model_scores_alike(split: Split, similarity: str) -> None:
    model, histories = fitted(split, similarity=similarity), split.test.histories
    assert torch.equal(model.prepared().scores(histories), model.scores(histories))
    items = torch.arange(5).repeat(len(histories), 1)
    assert torch.equal(model.prepared().scores(histories, items), model.scores(histories, items))


def test_no_evaluation_remembers_former_weights(split: Split) -> None:
    model = fitted(split)
    users, before = split.data.user_ids[:3], model.evaluate(split, protocols=["full"])
    recommended = model.recommend(users, 5)[1]
    weights = model.encoder.item_embedding.weight.detach().numpy()
    old = weights.copy()
    weights[:] = weights[::-1].copy()  # seen by no version counter
    assert model.evaluate(split, protocols=["full"]) != before
    assert not np.array_equal(model.recommend(users, 5)[1], recommended)
    weights[:] = old
    assert model.evaluate(split, protocols=["full"]) == before


def test_scores_follow_the_order_of_the_histories(split: Split) -> None:
    model = fitted(split)
    scores = model.scores(split.test.histories)
    for row in (0, 5, len(scores) - 1):
        alone = model.scores(split.test.histories[row : row + 1])
        torch.testing.assert_close(alone[0], scores[row], rtol=1e-5, atol=1e-5)
    assert model.scores(split.test.histories[:0]).shape == (0, 320)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_nothing_is_known_of_a_user_without_items(split: Split, similarity: str) -> None:
    model = fitted(split, similarity=similarity)
    histories = split.test.histories[:5]
    empty = replace(histories, stops=np.where(np.arange(5) % 2, histories.stops, histories.starts))
    scores = model.scores(empty)
    assert not scores[::2].any()
    torch.testing.assert_close(scores[1::2], model.scores(histories)[1::2])
    items = torch.arange(10).reshape(5, 2)
    assert not model.scores(empty, items)[::2].any()
    assert not model.scores(empty[[0]]).any()


def test_cosine_scores_lie_within_the_temperature(split: Split) -> None:
    scores = fitted(split, temperature=3.0).scores(split.test.histories)
    assert scores.abs().max() <= 3.0 + 1e-5


def string_ids(data: Interactions) -> Interactions:
    users = np.array([f"u{name}" for name in data.user_ids], dtype=object)
    items = np.array([f"i{name}" for name in data.item_ids], dtype=object)
    return Interactions(data.indptr, data.items, data.timestamps, users, items)


@pytest.fixture(scope="module", params=["int", "str"])
def model(request: pytest.FixtureRequest, split: Split) -> PDRec:
    data = split.data if request.param == "int" else string_ids(split.data)
    return fitted(data)


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("block_size", [1, 4, 256])
def test_recommend_agrees_with_the_scores(model: PDRec, filter_seen: bool, block_size: int) -> None:
    assert model.data is not None
    chosen = np.array([17, 3, 60, 3, 0])
    ids, logits = model.recommend(
        model.data.user_ids[chosen], 6, filter_seen=filter_seen, block_size=block_size
    )
    assert ids.shape == logits.shape == (5, 6)
    assert logits.dtype == np.float32
    scores = model.scores(model.data.histories(chosen)).numpy().copy()
    for row, user in enumerate(chosen):
        seen = model.data.items[model.data.indptr[user] : model.data.indptr[user + 1]]
        if filter_seen:
            scores[row, seen] = -np.inf
        best = np.argsort(-scores[row], kind="stable")[:6]
        assert ids[row].tolist() == model.data.item_ids[best].tolist()
        np.testing.assert_allclose(logits[row], scores[row, best], rtol=1e-5, atol=1e-5)


def test_recommend_reads_the_held_out_records_too(split: Split) -> None:
    model = fitted(split)
    ids, logits = model.recommend(split.data.user_ids, 5)
    scores = model.scores(split.data.histories())
    best = torch.from_numpy(split.data.item_index(ids.ravel())).view_as(torch.from_numpy(logits))
    np.testing.assert_allclose(logits, scores.gather(1, best).numpy(), rtol=1e-5, atol=1e-5)
    assert not (best.numpy() == split.test.targets[:, None]).any()


def test_recommend_takes_one_user_and_no_user(model: PDRec) -> None:
    assert model.data is not None
    assert model.recommend(model.data.user_ids[4])[0].shape == (1, 10)
    ids, logits = model.recommend([], 3)
    assert ids.shape == logits.shape == (0, 3)


@pytest.mark.parametrize("k", [0, -1, 321])
def test_k_out_of_range_is_named(model: PDRec, k: int) -> None:
    with pytest.raises(ValueError, match=rf"k must lie in 1 .. 320.*{k}"):
        model.recommend([], k)


def test_block_size_must_be_positive(model: PDRec) -> None:
    with pytest.raises(ValueError, match=r"block_size.*-3"):
        model.recommend([], block_size=-3)


def test_an_unknown_user_is_named(model: PDRec) -> None:
    with pytest.raises(DataError, match="nobody"):
        model.recommend(["nobody"])


@pytest.fixture
def few_items() -> PDRec:
    """User a saw 3 of 5 items (one twice), b all, c none, d the first."""
    data = Interactions(
        indptr=np.array([0, 4, 9, 9, 10]),
        items=np.array([0, 3, 0, 4, 4, 3, 2, 1, 0, 0]),
        timestamps=None,
        user_ids=np.array(["a", "b", "c", "d"], dtype=object),
        item_ids=np.array([10, 11, 12, 13, 14]),
    )
    model = PDRec(MeanEncoder, modules=())
    torch.manual_seed(0)
    model.encoder, model.data = MeanEncoder(5), data
    return model


def test_fewer_than_k_items_left(few_items: PDRec) -> None:
    ids, logits = few_items.recommend(["a", "b"], 4)
    assert set(ids[0, :2]) == {11, 12}
    assert ids[0, 2:].tolist() == [None, None]
    assert ids[1].tolist() == [None] * 4
    assert np.isfinite(logits[0, :2]).all()
    assert (logits[0, 2:] == -np.inf).all()
    assert (logits[1] == -np.inf).all()
    everything, _ = few_items.recommend("b", 5, filter_seen=False)
    assert sorted(everything[0]) == [10, 11, 12, 13, 14]


def test_a_user_without_interactions_is_named(few_items: PDRec) -> None:
    with pytest.raises(DataError, match=r"1 user\(s\) without interactions .*: 'c'"):
        few_items.recommend(["a", "c"], 3)


def test_ties_go_to_the_lower_item(few_items: PDRec) -> None:
    with torch.no_grad():
        few_items.fitted_encoder().item_embedding.weight[1:] = 1.0
    assert few_items.recommend("d", 4)[0].tolist() == [[11, 12, 13, 14]]


# --- save and load -----------------------------------------------------------------------------


def test_save_and_load(model: PDRec, tmp_path: Path) -> None:
    assert model.data is not None
    model.save(tmp_path / "model")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    loaded = PDRec.load(tmp_path / "model")
    assert torch.equal(torch.rand(3), expected), "loading touched the global generator"
    assert same_weights(model, loaded)
    assert loaded.config == model.config
    assert loaded.encoder_options == model.encoder_options
    assert loaded.history == model.history
    assert loaded.name == model.name
    users = model.data.user_ids[:9]
    for before, after in zip(model.recommend(users), loaded.recommend(users), strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype


def test_own_encoders_are_loaded_by_their_function(split: Split, tmp_path: Path) -> None:
    model = PDRec(MeanEncoder, modules=(), epochs=1).fit(split, progress=False)
    model.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"'MeanEncoder'.*encoder="):
        PDRec.load(tmp_path / "model")
    loaded = PDRec.load(tmp_path / "model", encoder=MeanEncoder)
    histories = split.test.histories
    assert torch.equal(loaded.scores(histories), model.scores(histories))


def test_an_own_encoder_named_like_a_built_in_one_is_not_mistaken_for_it(
    split: Split, tmp_path: Path
) -> None:
    def sasrec(n_items: int) -> nn.Module:
        return SASRec(n_items, width=8, heads=2)

    model = PDRec(sasrec, modules=(), epochs=1).fit(split, progress=False)
    model.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match="its own encoder"):
        PDRec.load(tmp_path / "model")


def test_weights_of_another_encoder_are_refused(split: Split, tmp_path: Path) -> None:
    PDRec(MeanEncoder, modules=(), epochs=1).fit(split, progress=False).save(tmp_path / "model")
    with pytest.raises(CheckpointError, match="do not fit"):
        PDRec.load(tmp_path / "model", encoder=SASRec)
