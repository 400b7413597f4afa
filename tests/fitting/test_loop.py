"""The epoch loop over a model that follows a script."""

import math

import pytest
import torch

from pdrec_fast.errors import CheckpointError, NonFiniteLossError
from pdrec_fast.fitting.bundle import bundle_exists, read_bundle
from pdrec_fast.fitting.loop import KIND, LoopConfig, run_loop

IDENTITY = {"config": {"lr": 0.1}, "data": "abc"}


class Scripted:
    """After epoch e (from 0) its weight is e + 1 and its validation figure ``figures[e]``."""

    def __init__(self, figures=None, losses=None, stop_at=None):
        self.figures, self.losses, self.stop_at = figures, losses or {}, stop_at
        self.weight, self.memory = torch.zeros(1), torch.zeros(1)
        self.epochs, self.validated = [], []

    def train_epoch(self, epoch):
        if epoch == self.stop_at:
            raise KeyboardInterrupt
        assert float(self.weight) == float(self.memory) == epoch
        self.weight += 1
        self.memory += 1
        self.epochs.append(epoch)
        return torch.tensor(self.losses.get(epoch, [1.0, 1 / (epoch + 1)]))

    def validate(self):
        epoch = int(self.weight) - 1
        self.validated.append(epoch)
        return None if self.figures is None else self.figures[epoch]

    def weights(self):
        return {"weight": self.weight}

    def load_weights(self, weights):
        self.weight.copy_(weights["weight"])

    def state(self):
        return {"memory": self.memory}

    def load_state(self, state):
        self.memory.copy_(state["memory"])


def run(fit, checkpoint=None, identity=IDENTITY, on_epoch_end=None, callbacks=(), **settings):
    config = LoopConfig(**{"epochs": 10, "checkpoint_seconds": 0.0, **settings})
    return run_loop(
        fit,
        config,
        name="toy",
        select_by="paper",
        identity=identity,
        checkpoint=checkpoint,
        progress=False,
        on_epoch_end=on_epoch_end,
        callbacks=callbacks,
    )


def test_stops_after_patience_and_restores_the_best_weights():
    fit = Scripted([0.1, 0.3, 0.2, 0.3, 0.1, 0.9])
    history = run(fit, patience=3)
    assert fit.epochs == [0, 1, 2, 3, 4]
    assert (history.best_epoch, history.best_value) == (1, 0.3)
    assert float(fit.weight) == 2
    assert history.finished
    assert history.epochs == 5
    assert history.validations == {"0": 0.1, "1": 0.3, "2": 0.2, "3": 0.3, "4": 0.1}


def test_a_watcher_sees_every_epoch_what_a_checkpoint_holds_and_may_end_the_training(tmp_path):
    seen = []

    def watch(history):
        seen.append((history.epochs, history.best_value))
        if history.epochs == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        run(Scripted([0.1, 0.3, 0.2, 0.4]), tmp_path / "c", on_epoch_end=watch)
    assert seen == [(1, 0.1), (2, 0.3), (3, 0.3)]
    again = Scripted([0.1, 0.3, 0.2, 0.4])
    with pytest.raises(TimeoutError):
        run(again, tmp_path / "c", on_epoch_end=watch)
    assert seen[3:] == [(3, 0.3)]
    assert not again.epochs


def test_improvement_resets_patience():
    fit = Scripted([0.1, 0.0, 0.2, 0.0, 0.3, 0.0, 0.0])
    run(fit, patience=2)
    assert len(fit.epochs) == 7
    assert float(fit.weight) == 5


def test_min_epochs_holds_early_stopping_back():
    fit = Scripted([0.9] + [0.1] * 9)
    history = run(fit, patience=1, min_epochs=6)
    assert history.epochs == 6
    assert float(fit.weight) == 1


def test_runs_all_epochs_without_validation_and_keeps_the_last_weights():
    fit = Scripted()
    history = run(fit, epochs=4, patience=1)
    assert history.epochs == 4
    assert float(fit.weight) == 4
    assert history.validations == {}
    assert history.best_epoch == -1


def test_validates_every_so_many_epochs_and_at_the_end():
    fit = Scripted([0.0, 0.1, 0.9, 0.3, 0.4, 0.5, 0.6, 0.2])
    history = run(fit, epochs=8, eval_every=3)
    assert fit.validated == [2, 5, 7]
    assert history.best_epoch == 2
    assert float(fit.weight) == 3


def test_patience_counts_epochs_not_validations():
    fit = Scripted([0.0, 0.5] + [0.1] * 8)
    assert run(fit, eval_every=2, patience=4).epochs == 6


def test_losses_are_the_means_of_the_steps():
    fit = Scripted(losses={0: [1.0, 3.0], 1: [5.0]})
    assert run(fit, epochs=2).losses == [2.0, 5.0]


def test_zero_is_better_than_nothing():
    fit = Scripted([0.0, 0.0, 0.0])
    history = run(fit, patience=2)
    assert (history.best_epoch, history.best_value) == (0, 0.0)
    assert float(fit.weight) == 1


def test_nan_figures_never_count_as_best():
    fit = Scripted([math.nan, 0.2, math.nan, 0.1])
    history = run(fit, epochs=4)
    assert history.best_epoch == 1
    assert float(fit.weight) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_loss_names_epoch_and_step_and_keeps_the_checkpoint(tmp_path, bad):
    fit = Scripted(losses={3: [1.0, 1.0, bad, 1.0, bad]})
    checkpoint = tmp_path / "checkpoint"
    message = (
        rf"toy: the loss became {bad} at epoch 4, step 3; the checkpoint after epoch 3 is kept"
    )
    with pytest.raises(NonFiniteLossError, match=message) as caught:
        run(fit, checkpoint)
    assert str(checkpoint) in str(caught.value)
    meta, files = read_bundle(checkpoint, KIND)
    assert len(meta["history"]["losses"]) == 3
    assert files["weights"]["weight"] == 3


def test_bad_loss_without_a_checkpoint_says_so():
    with pytest.raises(NonFiniteLossError, match="epoch 1, step 1; no checkpoint was written"):
        run(Scripted(losses={0: [math.nan]}))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("epochs", [3, 10])
def test_bad_weights_after_the_last_step_are_found_before_they_are_judged(tmp_path, bad, epochs):
    class Diverging(Scripted):
        def train_epoch(self, epoch):
            losses = super().train_epoch(epoch)
            if epoch == 2:
                self.weight.fill_(bad)
            return losses

        def validate(self):
            assert self.weight.isfinite().all()
            return super().validate()

    for checkpoint in (None, tmp_path / "checkpoint"):
        message = "the weights weight became NaN or infinite at the last step of epoch 3"
        with pytest.raises(NonFiniteLossError, match=message):
            run(Diverging([0.1] * 10), checkpoint, epochs=epochs)
    assert read_bundle(tmp_path / "checkpoint", KIND)[1]["weights"]["weight"] == 2


def test_resumes_where_it_was_stopped(tmp_path):
    figures = [0.1, 0.5, 0.2, 0.3, 0.4, 0.6, 0.1, 0.1, 0.1, 0.1]
    whole = Scripted(figures)
    expected = run(whole, patience=4)
    checkpoint = tmp_path / "checkpoint"
    for stop_at in (0, 1, 4, 6):
        with pytest.raises(KeyboardInterrupt):
            run(Scripted(figures, stop_at=stop_at), checkpoint, patience=4)
        assert bundle_exists(checkpoint) is (stop_at > 0)
    last = Scripted(figures)
    history = run(last, checkpoint, patience=4)
    assert last.epochs == [6, 7, 8, 9]
    assert (history.losses, history.validations) == (expected.losses, expected.validations)
    assert (history.best_epoch, history.best_value) == (5, 0.6)
    assert len(history.elapsed) == history.epochs
    assert history.elapsed == sorted(history.elapsed)
    assert history.elapsed[-1] == history.seconds > 0
    assert float(last.weight) == float(whole.weight) == 6


def test_best_weights_from_before_the_interruption_are_restored(tmp_path):
    figures = [0.9] + [0.1] * 9
    with pytest.raises(KeyboardInterrupt):
        run(Scripted(figures, stop_at=3), tmp_path / "c", patience=5)
    fit = Scripted(figures)
    run(fit, tmp_path / "c", patience=5)
    assert fit.epochs == [3, 4, 5]
    assert float(fit.weight) == 1


def test_a_finished_checkpoint_trains_no_more(tmp_path):
    run(Scripted([0.1, 0.5, 0.2]), tmp_path / "c", epochs=3)
    fit = Scripted([0.1, 0.5, 0.2])
    history = run(fit, tmp_path / "c", epochs=3)
    assert fit.epochs == []
    assert float(fit.weight) == 2
    assert (history.epochs, history.best_epoch, history.finished) == (3, 1, True)


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"config": {"lr": 0.2}, "data": "abc"}, r"different config\)"),
        ({"config": {"lr": 0.2}, "data": "xyz"}, r"different config, data\)"),
        ({"config": {"lr": 0.1}, "data": "abc", "seed": 1}, r"different seed\)"),
        ({"config": {"lr": 0.1}}, r"different data\)"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_kept(tmp_path, identity, message):
    run(Scripted(), tmp_path / "c", epochs=2)
    fit = Scripted()
    with pytest.raises(CheckpointError, match=message) as caught:
        run(fit, tmp_path / "c", identity)
    assert str(tmp_path / "c") in str(caught.value)
    assert fit.epochs == []
    assert float(fit.weight) == 0
    assert len(read_bundle(tmp_path / "c", KIND)[0]["history"]["losses"]) == 2


def test_identity_is_compared_as_json(tmp_path):
    run(Scripted(), tmp_path / "c", {"hidden": (4, 2)}, epochs=2)
    assert run(Scripted(), tmp_path / "c", {"hidden": [4, 2]}, epochs=2).epochs == 2


def test_a_damaged_checkpoint_is_refused(tmp_path):
    run(Scripted(), tmp_path / "c", epochs=2)
    (tmp_path / "c" / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"state\.safetensors: missing"):
        run(Scripted(), tmp_path / "c", epochs=2)


def test_checkpoints_wait_for_their_interval_but_not_at_the_ends(tmp_path):
    def saved_epochs():
        return len(read_bundle(tmp_path / "c", KIND)[0]["history"]["losses"])

    with pytest.raises(KeyboardInterrupt):
        run(Scripted(stop_at=5), tmp_path / "c", checkpoint_seconds=3600.0)
    assert saved_epochs() == 1
    history = run(Scripted(), tmp_path / "c", checkpoint_seconds=3600.0)
    assert saved_epochs() == history.epochs


@pytest.mark.parametrize("name", ["epochs", "patience", "eval_every"])
def test_settings_below_one_are_named(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        LoopConfig(**{"epochs": 1, name: 0})
