"""DiffRec as a user sees it: learning, seeds, precision, scores, saving."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pdrec_fast.data import leave_one_out, synthetic
from pdrec_fast.diffusion import DiffRec, DiffusionConfig, LinearDenoiser
from pdrec_fast.diffusion.denoiser import Denoiser
from pdrec_fast.diffusion.reverse import dense_reverse
from pdrec_fast.errors import CheckpointError, NonFiniteLossError
from pdrec_fast.evaluation import evaluate
from pdrec_fast.fitting.bundle import write_bundle

FAST = DiffusionConfig(hidden=(64,), lr=1e-3, batch_size=64, epochs=12, patience=12, dropout=0.2)
# 1 target among 99 others at random: sum of the first ten discounts / 100.
CHANCE = sum(1 / np.log2(rank + 2) for rank in range(10)) / 100


@pytest.fixture(scope="module")
def split():
    return leave_one_out(synthetic(n_users=300, n_items=300))


@pytest.fixture(scope="module")
def fitted(split):
    return DiffRec(FAST).fit(split, progress=False)


def valid_figure(model, split):
    return evaluate(model, split, on=["valid"], protocols=["paper"])["paper"]["valid"]["ndcg@10"]


def test_training_reduces_the_loss_and_beats_chance(fitted, split):
    losses = fitted.history.losses
    assert losses[-1] < 0.7 * losses[0]
    assert valid_figure(fitted, split) > 2 * CHANCE
    assert valid_figure(fitted, split) == fitted.history.best_value


@pytest.mark.parametrize("weighting", ["none", "rank"])
def test_the_other_weightings_learn_too(weighting, fitted, split):
    model = DiffRec(FAST, weighting=weighting).fit(split, progress=False)
    assert model.history.best_value > 1.5 * CHANCE
    histories = split.valid.histories[:5]
    assert not torch.equal(model.inputs(histories).dense(), fitted.inputs(histories).dense())


def test_noise_prediction_learns(split):
    model = DiffRec(FAST, prediction="eps", noise_scale=1.0, noise_min=0.1, noise_max=0.5)
    losses = model.fit(split, progress=False).history.losses
    assert losses[-1] < losses[0]
    assert model.scores(split.valid.histories[:7]).isfinite().all()


def test_same_seed_gives_the_same_weights_whatever_the_global_state(split):
    models = []
    for seed, noise in ((5, 1), (5, 2), (6, 1)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        models.append(DiffRec(FAST, epochs=2, seed=seed).fit(split, progress=False))
        assert torch.equal(torch.get_rng_state(), before)
    first, second, other = (model.denoiser.state_dict() for model in models)
    for name in first:
        assert torch.equal(first[name], second[name]), name
        assert not torch.equal(first[name], other[name]), name


def test_bf16_ends_near_fp32(fitted, split):
    model = DiffRec(FAST, precision="bf16").fit(split, progress=False)
    assert all(value.dtype == torch.float32 for value in model.denoiser.state_dict().values())
    assert model.history.losses != fitted.history.losses
    assert model.history.losses[-1] == pytest.approx(fitted.history.losses[-1], rel=0.1)
    assert valid_figure(model, split) == pytest.approx(valid_figure(fitted, split), rel=0.2)


def test_plain_interactions_train_for_all_epochs(split):
    model = DiffRec(FAST, epochs=3, patience=1).fit(split.train, progress=False)
    assert model.history.epochs == 3
    assert model.history.validations == {}


def test_fitting_again_starts_anew(split):
    model = DiffRec(FAST, epochs=1)
    first = model.fit(split, progress=False).scores(split.valid.histories[:9])
    assert torch.equal(model.fit(split, progress=False).scores(split.valid.histories[:9]), first)


def test_scores_follow_the_reverse_process(fitted, split):
    histories = split.test.histories[np.array([5, 0, 17, 3])]
    scores = fitted.scores(histories)
    with torch.no_grad():
        dense = dense_reverse(
            fitted.denoiser, fitted.schedule, fitted.inputs(histories), histories.users
        )
    assert (scores.dtype, scores.shape) == (torch.float32, (4, 300))
    atol = 1e-5 * float(dense.abs().max())
    torch.testing.assert_close(scores, dense, rtol=1e-5, atol=atol)
    assert not scores.requires_grad


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hidden": (8, 6)},
        {"normalize_input": True},
        {"prediction": "eps"},
        {"sampling_steps": 3},
        {"sampling_noise": True},
    ],
)
def test_scores_of_chosen_items_are_those_of_the_corpus(split, settings):
    model = DiffRec(FAST, **{"epochs": 1, "hidden": (8,), **settings}).fit(split, progress=False)
    assert model.has_user_vectors is (not settings)
    histories = split.test.histories[:6]
    items = torch.randint(300, (6, 11), generator=torch.Generator().manual_seed(0))
    corpus = model.scores(histories)
    torch.testing.assert_close(
        model.scores(histories, items), corpus.gather(1, items), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(model.scores(histories), corpus)
    torch.testing.assert_close(model.scores(histories[2:4]), corpus[2:4], rtol=1e-5, atol=1e-5)


def test_user_vectors_are_scored_against_the_item_matrix(fitted, split):
    histories = split.test.histories[:6]
    vectors = fitted.user_vectors(histories)
    assert vectors.shape == (6, 64)
    assert torch.equal(fitted.denoiser.decode(vectors).detach(), fitted.scores(histories))


def test_scores_can_enter_a_graph_of_the_caller(fitted, split):
    histories = split.test.histories[:3]
    factor = torch.ones(1, requires_grad=True)
    for result in (fitted.scores(histories), fitted.user_vectors(histories)):
        assert not result.requires_grad
        (result * factor).square().sum().backward()
    assert factor.grad > 0


def test_no_histories_give_no_scores(fitted, split):
    nobody = split.test.histories[:0]
    assert fitted.scores(nobody).shape == (0, 300)
    assert fitted.scores(nobody, torch.zeros(0, 4, dtype=torch.int64)).shape == (0, 4)


def test_an_empty_history_has_a_score(fitted, split):
    histories = split.test.histories[:2]
    stops = np.array([histories.starts[0], histories.stops[1]])
    scores = fitted.scores(replace(histories, stops=stops))
    assert scores.isfinite().all()
    torch.testing.assert_close(scores[1:], fitted.scores(histories)[1:], rtol=1e-5, atol=1e-5)


def test_save_and_load_give_equal_scores(fitted, split, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = DiffRec.load(tmp_path / "model")
    assert loaded.config == fitted.config
    assert loaded.history == fitted.history
    histories = split.test.histories[:40]
    assert torch.equal(loaded.scores(histories), fitted.scores(histories))
    loaded.save(tmp_path / "again")
    again = DiffRec.load(tmp_path / "again").denoiser.state_dict()
    for name, value in fitted.denoiser.state_dict().items():
        assert torch.equal(value, again[name])


def test_load_refuses_what_is_no_model(fitted, tmp_path):
    with pytest.raises(CheckpointError, match="no diffusion model is saved here"):
        DiffRec.load(tmp_path / "nowhere")
    write_bundle(tmp_path / "other", "preferences", {}, {})
    with pytest.raises(CheckpointError, match="holds a preferences, not a diffusion model"):
        DiffRec.load(tmp_path / "other")


def test_load_refuses_weights_of_other_sizes(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    weights = dict(Denoiser(300, (32,)).state_dict())
    model = DiffRec(FAST)
    meta = {"config": vars(model.config), "n_items": 300}
    write_bundle(tmp_path / "model", "diffusion model", meta, {"weights": weights})
    with pytest.raises(CheckpointError, match=r"model: weights do not fit[\s\S]*item_in"):
        DiffRec.load(tmp_path / "model")


def test_unfitted_model_says_what_to_do(split, tmp_path):
    model = DiffRec()
    for act in (lambda: model.scores(split.test.histories), lambda: model.save(tmp_path / "m")):
        with pytest.raises(RuntimeError, match=r"not fitted: call fit\(\.\.\.\)"):
            act()
    assert not (tmp_path / "m").exists()


def test_histories_over_another_catalogue_are_refused(fitted):
    other = synthetic(20, 299).histories()
    for act in (fitted.scores, fitted.user_vectors):
        with pytest.raises(ValueError, match=r"over 299 items, this model was fitted on 300"):
            act(other)


def test_divergence_is_reported_with_epoch_and_step(split, tmp_path):
    model = DiffRec(FAST, lr=1e30, weight_decay=0.0, epochs=5)
    with pytest.raises(NonFiniteLossError, match=r"TI-DiffRec: .* epoch \d+") as caught:
        model.fit(split, checkpoint=tmp_path / "c", progress=False)
    assert "Lower the learning rate" in str(caught.value)


def test_checkpoint_of_other_settings_or_data_is_refused(split, tmp_path):
    DiffRec(FAST, epochs=1).fit(split, checkpoint=tmp_path / "c", progress=False)
    with pytest.raises(CheckpointError, match=r"different config\)"):
        DiffRec(FAST, epochs=1, lr=1e-4).fit(split, checkpoint=tmp_path / "c", progress=False)
    other = leave_one_out(synthetic(n_users=300, n_items=300, seed=1))
    with pytest.raises(CheckpointError, match=r"different data, validation data\)"):
        DiffRec(FAST, epochs=1).fit(other, checkpoint=tmp_path / "c", progress=False)


def test_keyword_arguments_override_the_configuration():
    model = DiffRec(FAST, weighting="rank", hidden=[7, 5])
    assert model.config == replace(FAST, weighting="rank", hidden=(7, 5))
    assert DiffRec().config == DiffusionConfig()
    assert model.schedule.steps == FAST.steps


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("weighting", "time"),
        ("prediction", "v"),
        ("precision", "fp16"),
        ("schedule", "quadratic"),
        ("select_by", "test"),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("sampling_steps", 11),
        ("sampling_steps", -1),
        ("lr", 0.0),
        ("lr_decay", float("nan")),
        ("batch_size", 0),
        ("seed", -1),
        ("seed", 2**32),
        ("steps", 0),
        ("noise_scale", 0.0),
    ],
)
def test_settings_out_of_range_are_named(setting, value):
    with pytest.raises(ValueError, match=setting):
        DiffRec(**{setting: value})


MULTINOMIAL = replace(FAST, likelihood="multinomial", weighting="decay", w_min=0.0, target="later")


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": "mask", "dropout": 0.9},
        {"noise": "mask", "snr_weighting": True, "hidden": (32, 16)},
        {"noise": "gaussian", "precision": "bf16"},
        {"noise": "gaussian", "normalize_input": True},
    ],
)
def test_the_multinomial_likelihood_learns(settings, split):
    model = DiffRec(MULTINOMIAL, **settings).fit(split, progress=False)
    assert model.history.losses[-1] < model.history.losses[0]
    assert model.history.best_value > 2 * CHANCE


def test_multinomial_scores_are_the_denoiser_on_the_history_as_it_is(split):
    model = DiffRec(MULTINOMIAL, epochs=1, device="cpu").fit(split, progress=False)
    histories = split.test.histories[:6]
    expected = model.denoiser(model.inputs(histories).dense(), torch.zeros(6, dtype=torch.int64))
    torch.testing.assert_close(model.scores(histories), expected.detach(), atol=1e-5, rtol=1e-5)
    some = torch.arange(12).reshape(6, 2)
    torch.testing.assert_close(
        model.scores(histories, some), expected.detach().gather(1, some), atol=1e-5, rtol=1e-5
    )
    vectors, offsets = model.item_vectors
    torch.testing.assert_close(
        model.user_vectors(histories) @ vectors.T + offsets, expected.detach(), atol=1e-5, rtol=1e-5
    )


def test_a_multinomial_model_is_saved_with_its_settings(split, tmp_path):
    model = DiffRec(MULTINOMIAL, epochs=1, noise="mask", device="cpu").fit(split, progress=False)
    model.save(tmp_path / "model")
    loaded = DiffRec.load(tmp_path / "model", device="cpu")
    assert loaded.config == model.config
    assert loaded.fingerprint() == model.fingerprint()
    histories = split.test.histories[:6]
    assert torch.equal(loaded.scores(histories), model.scores(histories))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"likelihood": "multinomial", "prediction": "eps"}, "prediction='x0'"),
        ({"likelihood": "multinomial", "sampling_steps": 2}, "sampling_steps=0"),
        ({"target": "later", "prediction": "eps"}, "target='later'"),
        ({"noise": "mask"}, "likelihood='multinomial'"),
        (
            {"noise": "mask", "likelihood": "multinomial", "normalize_input": True},
            "normalize_input",
        ),
        ({"decay": 0.0}, "decay"),
        ({"earlier_weight": -1.0}, "earlier_weight"),
        ({"cut_every": 0}, "cut_every"),
        ({"noise": "salt"}, "noise"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DiffusionConfig(**settings)


def test_items_that_training_has_not_seen_take_no_place_in_a_history(tmp_path):
    split = leave_one_out(synthetic(n_users=80, n_items=900))
    train = split.train
    cold = np.flatnonzero(np.bincount(train.items, minlength=train.n_items) == 0)
    settings = {"noise": "mask", "epochs": 1, "device": "cpu"}
    model = DiffRec(MULTINOMIAL, skip_cold_items=True, **settings).fit(split, progress=False)
    histories = train.histories()[np.arange(4)]
    indptr, items, times = histories.packed()
    at = indptr[1:]  # a cold item at the end of every history
    longer = replace(
        histories,
        items=np.insert(items, at, cold[:4].astype(items.dtype)),
        timestamps=np.insert(times, at, times[at - 1]),
        starts=indptr[:-1] + np.arange(4),
        stops=at + np.arange(1, 5),
    )
    assert torch.equal(model.scores(longer), model.scores(histories))
    plain = DiffRec(MULTINOMIAL, **settings).fit(split, progress=False)
    assert not torch.equal(plain.scores(longer), plain.scores(histories))
    model.save(tmp_path / "model")
    loaded = DiffRec.load(tmp_path / "model", device="cpu")
    assert torch.equal(loaded.scores(longer), model.scores(histories))
    linear = LinearDenoiser(ridge=5.0).fit(train)
    assert torch.equal(linear.scores(longer), linear.scores(histories))
